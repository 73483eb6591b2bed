// Zero-shot tasks as files state them: items of a context and its possible continuations.
//
// Every task is brought to one form, so that scoring knows nothing of files. The texts are put
// together as the field's standard harness does it (docs/EVALUATION.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fireq {

// A text to be scored behind another. All UTF-8.
struct TaskCandidate {
  std::string context;       // never empty; does not end in white space
  std::string continuation;  // opens with the white space that parts it from the context
  int64_t length = 0;        // characters (code points) without that white space: acc_norm's unit
};

enum class TaskScoring : uint8_t {
  kLikeliest,  // right if candidate `gold` has the highest log-likelihood
  kGreedy,     // one candidate; right if greedy decoding writes it
};

struct TaskItem {
  std::vector<TaskCandidate> candidates;
  int64_t gold = 0;
};

struct Task {
  std::string name;
  TaskScoring scoring = TaskScoring::kLikeliest;
  std::vector<TaskItem> items;
};

// piqa, arc_easy, arc_challenge, boolq, hellaswag, winogrande, lambada_openai.
std::vector<std::string> TaskNames();

// Reads task `name` from its file in `directory` (<name>.jsonl; hellaswag_val_full.txt.bz2). All of
// the file is checked, then the first `limit` items are kept (0: all). Errors: kInvalidArgument for
// an unknown name (listing those there are); kNotFound, kIo; kCorrupt for a line that is not what
// the task's layout says, naming file and line.
Task LoadTask(const std::filesystem::path& directory, std::string_view name, int64_t limit = 0);

}  // namespace fireq
