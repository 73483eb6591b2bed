// One step of many sequences through the model: tokens in, chosen tokens out. Owns the memory that
// serving takes besides the weights, and takes all of it at the start.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "fireq/engine/token_sampler.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"
#include "fireq/model/model.h"

namespace fireq {

enum class RecordDecode : uint8_t { kWhereItGains, kAlways, kNever };

struct RunnerOptions {
  int64_t max_context = 0;    // tokens a sequence; 0: what the model states
  int64_t max_tokens = 2048;  // of a step
  int64_t max_sequences = 256;
  int64_t memory_bytes = 0;  // for cache, activations, logits, tables and the backend's own needs
  int64_t max_pages = 0;     // of the cache; 0: what memory_bytes leaves
  Products products = Products::kServed;
  // Sums of a row do not depend on the other rows of a step; then products cannot either, and
  // kServed means kTable.
  Reduction reduction = Reduction::kFastest;
  RecordDecode record_decode = RecordDecode::kWhereItGains;
};

// A sequence's part in a step.
struct RunnerRow {
  SequenceStep step;                // the ids may be stand-ins of the step before
  std::optional<SampleRow> sample;  // choose a token from the logits of the last id
};

// A step that the backend has been given and may not have finished.
class StepInFlight {
 public:
  StepInFlight() = default;
  StepInFlight(std::unique_ptr<ChosenTokens> chosen, std::vector<size_t> places)
      : chosen_(std::move(chosen)), places_(std::move(places)) {}

  // The id that stands, in the next step and no other, for the choice of the i-th row that samples.
  int32_t StandIn(size_t i) const { return ~static_cast<int32_t>(places_[i]); }
  // One choice for each row that samples, in order. Once.
  std::vector<TokenChoice> Wait();

 private:
  std::unique_ptr<ChosenTokens> chosen_;  // null if no row samples
  std::vector<size_t> places_;            // of each row's choice among `chosen_`
};

// Not thread-safe. `backend` and `model` outlive it.
//
// A step in which every sequence decodes one token is filled up to a round number of sequences and,
// where the backend gains by it, recorded the second time that number is met and only run again
// from then on: forward pass and what is wanted of lm_head without a call to the backend for each
// of their ops.
class Runner {
 public:
  // Throws kOutOfMemory, with the figures, if the budget does not hold one page.
  Runner(Backend& backend, const Model& model, const RunnerOptions& options,
         std::unique_ptr<TokenSampler> sampler);

  // Starts `rows` (at most max_tokens ids, max_sequences rows) as one batch behind the steps
  // started before; their K and V are in the cache then.
  StepInFlight Start(std::span<const RunnerRow> rows);
  // The same, and waits for the choices.
  std::vector<TokenChoice> Run(std::span<const RunnerRow> rows) { return Start(rows).Wait(); }

  int64_t num_pages() const { return num_pages_; }
  int64_t max_context() const { return options_.max_context; }
  int64_t working_bytes() const;  // everything but the cache, the backend's own needs included
  int64_t cache_bytes() const { return cache_->size_bytes(); }

 private:
  // What a step wants of lm_head: logits, or only which of each row is the largest, in `chosen_`.
  enum class HeadOutput : uint8_t { kLogits, kLargest };
  // A decode step of a fixed number of sequences and pages a sequence.
  struct DecodeWork {
    BatchView batch;
    std::unique_ptr<Recording> recording;
    bool has_run = false;
  };

  void MakeCache();
  bool IsDecode(std::span<const RunnerRow> rows) const;
  HeadOutput OutputFor(std::span<const SampleRow> samples) const;
  void Decode(std::span<const SequenceStep> steps, HeadOutput output);
  void Mixed(std::span<const SequenceStep> steps, std::span<const int32_t> last_tokens,
             HeadOutput output);
  void ForwardDecode(const DecodeWork& work, HeadOutput output);
  void ForwardHead(const Tensor& hidden, HeadOutput output);
  BatchView Fill(std::span<const SequenceStep> steps, int64_t max_pages, int64_t fillers = 0);

  Backend& backend_;
  const Model& model_;
  RunnerOptions options_;
  ForwardContext context_;
  ForwardBuffers buffers_;
  int64_t max_decode_;  // sequences of a decode step, fillers included
  LogitBuffers logits_;
  Tensor sampled_;  // border [S, D]: hidden rows that sample
  Tensor chosen_;   // I32 [S], fillers included: the choices of the last step that sampled
  BatchArrays arrays_;
  std::unique_ptr<TokenSampler> sampler_;
  int64_t reserved_bytes_;  // by the backend, for itself
  int64_t num_pages_ = 0;
  std::optional<KvCache> cache_;
  // By sequences, pages, and what is wanted of lm_head.
  std::map<std::tuple<int64_t, int64_t, HeadOutput>, DecodeWork> decode_;
};

}  // namespace fireq
