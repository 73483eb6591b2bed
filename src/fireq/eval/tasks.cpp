#include "fireq/eval/tasks.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "fireq/eval/continuation_scorer.h"

namespace fireq {
namespace {

Continuation EncodeCandidate(const TaskCandidate& candidate, const TaskEncoder& encode) {
  Continuation out{encode(candidate.context + candidate.continuation), 0};
  const int64_t total = static_cast<int64_t>(out.ids.size());
  const int64_t context = static_cast<int64_t>(encode(candidate.context).size());
  // A tokenizer may join the two so that the whole has no more tokens than the context had; its
  // last token is then what the continuation decides.
  out.scored = std::max<int64_t>(1, total - context);
  FIREQ_CHECK(out.scored < total, kInvalidArgument, "no token before the continuation '",
              candidate.continuation, "'");
  return out;
}

std::vector<ContinuationGroup> EncodeItems(const Task& task, const TaskEncoder& encode) {
  std::vector<ContinuationGroup> groups;
  for (const TaskItem& item : task.items) {
    ContinuationGroup& group = groups.emplace_back();
    for (const TaskCandidate& candidate : item.candidates)
      group.push_back(EncodeCandidate(candidate, encode));
  }
  return groups;
}

// Whether candidate `gold` has the largest value; the first counts among equals.
bool IsFirstMaximum(const std::vector<double>& values, int64_t gold) {
  return std::max_element(values.begin(), values.end()) - values.begin() == gold;
}

}  // namespace

TaskResult EvaluateTask(Backend& backend, const Model& model, const Task& task,
                        const TaskEncoder& encode, const TaskOptions& options) {
  const int64_t total = static_cast<int64_t>(task.items.size());
  FIREQ_CHECK(total > 0, kInvalidArgument, "task ", task.name, " has no items");
  const int64_t max_context =
      options.max_context > 0 ? options.max_context : model.config.max_context;
  ContinuationScorer scorer(backend, model, max_context, options.products, options.num_threads);
  const auto scores = scorer.Score(EncodeItems(task, encode), [&](int64_t done) {
    if (options.progress) options.progress(done, total);
  });

  int64_t right = 0, right_norm = 0;
  for (size_t i = 0; i < task.items.size(); ++i) {
    const TaskItem& item = task.items[i];
    if (task.scoring == TaskScoring::kGreedy) {
      right += scores[i][0].greedy ? 1 : 0;
      right_norm += scores[i][0].greedy ? 1 : 0;
      continue;
    }
    std::vector<double> sums, means;
    for (size_t c = 0; c < item.candidates.size(); ++c) {
      sums.push_back(scores[i][c].log_likelihood);
      means.push_back(scores[i][c].log_likelihood / static_cast<double>(item.candidates[c].length));
    }
    right += IsFirstMaximum(sums, item.gold) ? 1 : 0;
    right_norm += IsFirstMaximum(means, item.gold) ? 1 : 0;
  }
  const double n = static_cast<double>(total);
  const double acc = static_cast<double>(right) / n;
  // The mean of n values 0 or 1: their sample deviation over sqrt(n).
  const double acc_stderr = total > 1 ? std::sqrt(acc * (1.0 - acc) / (n - 1.0)) : 0.0;
  return {acc, static_cast<double>(right_norm) / n, acc_stderr, total};
}

}  // namespace fireq
