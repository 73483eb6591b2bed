// What quantising cost a model on text that it was not calibrated on.
#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "fireq/eval/perplexity.h"

namespace fireq {

// Of the quantised model, against the float model.
struct HeldOutResult {
  PerplexityResult table, exact;
};

// `ids` in windows of `context` through both models, which may be OpenModel's.
HeldOutResult MeasureHeldOut(Backend& backend, const Model& quantised, const Model& reference,
                             std::span<const int32_t> ids, int64_t context, int num_threads);

// {"tokens","context","float":{"perplexity","perplexity_stderr"},
//  "table":{"perplexity","perplexity_stderr","kl_mean","kl_stderr","kl_p99","top1_agreement",
//  "top1_stderr","kl_along_window":[...]},"exact":{the same}}
nlohmann::json ToJson(const HeldOutResult& result, int64_t context);

}  // namespace fireq
