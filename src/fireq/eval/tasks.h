// Zero-shot tasks: how often a model finds the right continuation likeliest.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "fireq/eval/task_data.h"
#include "fireq/model/model.h"

namespace fireq {

// Token ids of a text, with what the model's tokenizer puts around one.
using TaskEncoder = std::function<std::vector<int32_t>(std::string_view text)>;

struct TaskOptions {
  int64_t max_context = 0;  // tokens; 0: what the model states
  Products products = Products::kServed;
  int num_threads = 0;  // as ContinuationScorer has it
  // May throw to stop.
  std::function<void(int64_t items_done, int64_t items_total)> progress;
};

struct TaskResult {
  double acc = 0.0;         // share of items right by summed log-likelihood, or by greedy decoding
  double acc_norm = 0.0;    // by log-likelihood a character of the continuation; kGreedy: acc
  double acc_stderr = 0.0;  // of acc
  int64_t items = 0;
};

// Scores `task`. A text's tokens are those of context and continuation together; the continuation's
// are what stands behind as many tokens as the context alone has. A text longer than the context
// loses its first tokens. Ties go to the first candidate. Throws what ContinuationScorer throws,
// and kInvalidArgument naming the item if the tokenizer leaves nothing before a continuation.
// Source: docs/EVALUATION.md.
TaskResult EvaluateTask(Backend& backend, const Model& model, const Task& task,
                        const TaskEncoder& encode, const TaskOptions& options);

}  // namespace fireq
