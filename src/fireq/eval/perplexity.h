// Perplexity of a model over token ids, and its distance from a reference model on the same ids.
//
// The ids are cut into windows of `context`, each run from an empty cache through the same forward
// and the same backend that serve; the short last window is dropped. Perplexity is over the
// context - 1 targets of each window; KL and agreement over all positions.
// Source: served arithmetic, "Evaluation" (docs/SERVED_ARITHMETIC.md).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "fireq/model/model.h"

namespace fireq {

struct PerplexityOptions {
  int64_t context = 2048;
  int64_t max_tokens = 0;  // rounded down to whole windows; 0: all
  Products products = Products::kServed;
  int64_t chunk = 0;    // tokens of a window run at a time; 0: all, 1: as decoding does
  int num_threads = 0;  // for the statistics, beside the backend's own; 0: one a hardware thread
  // Called after each window; may throw to stop.
  std::function<void(int64_t tokens_done, int64_t tokens_total, double perplexity_so_far)> progress;
};

struct PerplexityResult {
  double perplexity = 0.0;
  double perplexity_stderr = 0.0;  // from the spread of the per-token losses
  int64_t tokens = 0;              // windows x context
  double seconds = 0.0;            // in the evaluated model alone
  double tokens_per_second = 0.0;

  // From a reference model.
  struct Distance {
    double kl_mean = 0.0;  // KL(reference || model), nats a position
    double kl_stderr = 0.0;
    double kl_p99 = 0.0;
    double top1_agreement = 0.0;  // share of positions with the same first choice
    double top1_stderr = 0.0;
    double reference_perplexity = 0.0;
    double reference_perplexity_stderr = 0.0;
    // KL of the positions 0 .. context/16 - 1 of all windows, of the next sixteenth, ...: at
    // most 16.
    std::vector<double> kl_along_window;
  };
  std::optional<Distance> distance;  // with a reference
};

// A model and what runs it; the reference may live on another backend.
struct LoadedModel {
  Backend* backend = nullptr;
  const Model* model = nullptr;
};

// `reference` without a model: no distance. Throws kInvalidArgument if there is not one whole
// window, or the models' vocabularies differ.
PerplexityResult EvaluatePerplexity(const LoadedModel& model, std::span<const int32_t> ids,
                                    const PerplexityOptions& options,
                                    const LoadedModel& reference = {});

// One result for each of `products`; the reference runs once, with options.products.
std::vector<PerplexityResult> EvaluatePerplexity(const LoadedModel& model,
                                                 std::span<const int32_t> ids,
                                                 const PerplexityOptions& options,
                                                 const LoadedModel& reference,
                                                 std::span<const Products> products);

}  // namespace fireq
