#include "fireq/engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "fireq/base/error.h"

namespace fireq {
namespace {

int32_t ArgMax(std::span<const float> logits) {
  int32_t best = -1;
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i]) && (best < 0 || logits[i] > logits[static_cast<size_t>(best)]))
      best = static_cast<int32_t>(i);
  FIREQ_CHECK(best >= 0, kInternal, "all ", logits.size(),
              " logits are NaN: the model's weights or its inputs are broken");
  return best;
}

}  // namespace

Sampler::Sampler(const SamplingParams& params) : params_(params), rng_(params.seed) {
  FIREQ_CHECK(params.temperature >= 0.0f && std::isfinite(params.temperature), kInvalidArgument,
              "temperature must be a finite number >= 0, got ", params.temperature);
  FIREQ_CHECK(params.top_k >= 0, kInvalidArgument, "top-k must be >= 0, got ", params.top_k);
  FIREQ_CHECK(params.top_p > 0.0f && params.top_p <= 1.0f, kInvalidArgument,
              "top-p must be in (0, 1], got ", params.top_p);
  FIREQ_CHECK(params.min_p >= 0.0f && params.min_p < 1.0f, kInvalidArgument,
              "min-p must be in [0, 1), got ", params.min_p);
}

int32_t Sampler::Sample(std::span<const float> logits) {
  if (params_.temperature == 0.0f) return ArgMax(logits);
  const float top = logits[static_cast<size_t>(ArgMax(logits))];

  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i])) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (params_.top_k > 0 && params_.top_k < static_cast<int64_t>(candidates_.size())) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k - 1,
                     candidates_.end(), likelier);
    candidates_.resize(static_cast<size_t>(params_.top_k));
  }
  std::sort(candidates_.begin(), candidates_.end(), likelier);

  std::vector<double> cumulative;
  cumulative.reserve(candidates_.size());
  double total = 0.0;
  for (const Candidate& c : candidates_) {
    total += std::exp((static_cast<double>(c.logit) - top) / params_.temperature);
    cumulative.push_back(total);
  }
  size_t kept = candidates_.size();
  if (params_.top_p < 1.0f) {
    const auto enough =
        std::lower_bound(cumulative.begin(), cumulative.end(), params_.top_p * total);
    kept = std::min(kept, static_cast<size_t>(enough - cumulative.begin()) + 1);
  }
  if (params_.min_p > 0.0f) {
    // Probability relative to the likeliest is exp((logit - top) / temperature).
    const double floor = std::log(params_.min_p) * params_.temperature;
    while (kept > 1 && static_cast<double>(candidates_[kept - 1].logit) - top < floor) --kept;
  }
  const double uniform = static_cast<double>(rng_() >> 11) * 0x1p-53;
  const auto chosen =
      std::upper_bound(cumulative.begin(), cumulative.begin() + static_cast<int64_t>(kept) - 1,
                       uniform * cumulative[kept - 1]);
  return candidates_[static_cast<size_t>(chosen - cumulative.begin())].id;
}

}  // namespace fireq
