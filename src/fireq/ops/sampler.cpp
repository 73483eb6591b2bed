#include "fireq/ops/sampler.h"

#include <algorithm>
#include <cmath>

#include "fireq/base/error.h"
#include "fireq/base/philox.h"

namespace fireq {
namespace {

// First of the largest; -1 if all are NaN.
int32_t ArgMax(std::span<const float> logits) {
  int32_t best = -1;
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i]) && (best < 0 || logits[i] > logits[static_cast<size_t>(best)]))
      best = static_cast<int32_t>(i);
  return best;
}

}  // namespace

SampleRowParams MakeSampleRow(const SamplingParams& params, int64_t draw) {
  const bool draws = params.temperature > 0.0f;
  return {.seed = draws ? params.seed : 0,
          .draw = draws ? draw : 0,
          .top_k = params.top_k,
          .temperature = params.temperature,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .repetition_penalty = params.repetition_penalty,
          .num_logprobs = static_cast<int32_t>(params.num_logprobs)};
}

SamplingParams ParamsOf(const SampleRowParams& row) {
  return {.temperature = row.temperature,
          .top_k = row.top_k,
          .top_p = row.top_p,
          .min_p = row.min_p,
          .seed = row.seed,
          .repetition_penalty = row.repetition_penalty,
          .num_logprobs = row.num_logprobs};
}

void Validate(const SamplingParams& params) {
  FIREQ_CHECK(params.temperature >= 0.0f && std::isfinite(params.temperature), kInvalidArgument,
              "temperature must be a finite number >= 0, got ", params.temperature);
  FIREQ_CHECK(params.top_k >= 0, kInvalidArgument, "top-k must be >= 0, got ", params.top_k);
  FIREQ_CHECK(params.top_p > 0.0f && params.top_p <= 1.0f, kInvalidArgument,
              "top-p must be in (0, 1], got ", params.top_p);
  FIREQ_CHECK(params.min_p >= 0.0f && params.min_p < 1.0f, kInvalidArgument,
              "min-p must be in [0, 1), got ", params.min_p);
  FIREQ_CHECK(params.repetition_penalty > 0.0f && std::isfinite(params.repetition_penalty),
              kInvalidArgument, "repetition penalty must be a finite number > 0, got ",
              params.repetition_penalty);
  FIREQ_CHECK(params.num_logprobs >= -1 && params.num_logprobs <= kMaxLogprobs, kInvalidArgument,
              "number of log-probabilities must be 0 to ", kMaxLogprobs, " (or -1 for none), got ",
              params.num_logprobs);
}

TokenChoice Sampler::Choose(const SamplingParams& params, std::span<const float> logits,
                            std::span<const int32_t> history, int64_t draw) {
  const std::span<const float> penalised = Penalise(params.repetition_penalty, logits, history);
  TokenChoice choice;
  choice.id = ArgMax(penalised);
  if (choice.id < 0) return choice;
  if (params.temperature > 0.0f) {
    Collect(penalised);
    KeepTop(params.top_k);
    choice.id = Draw(params, draw);
  }
  if (params.num_logprobs >= 0) AddLogprobs(params, logits, choice);
  return choice;
}

std::span<const float> Sampler::Penalise(float penalty, std::span<const float> logits,
                                         std::span<const int32_t> history) {
  if (penalty == 1.0f) return logits;
  penalised_.assign(logits.begin(), logits.end());
  seen_.assign(logits.size(), false);
  for (const int32_t id : history) {
    const size_t i = static_cast<size_t>(id);
    if (seen_[i]) continue;
    seen_[i] = true;
    penalised_[i] = penalised_[i] > 0.0f ? penalised_[i] / penalty : penalised_[i] * penalty;
  }
  return penalised_;
}

void Sampler::Collect(std::span<const float> logits) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i])) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
}

void Sampler::KeepTop(int64_t count) {
  if (count > 0 && count < static_cast<int64_t>(candidates_.size())) {
    std::nth_element(candidates_.begin(), candidates_.begin() + count - 1, candidates_.end(),
                     Likelier);
    candidates_.resize(static_cast<size_t>(count));
  }
  std::sort(candidates_.begin(), candidates_.end(), Likelier);
}

int32_t Sampler::Draw(const SamplingParams& params, int64_t draw) {
  const double top = candidates_.front().logit;
  cumulative_.clear();
  double total = 0.0;
  for (const Candidate& c : candidates_) {
    // Equal logits first: infinity minus infinity would be NaN.
    total += c.logit == top ? 1.0 : std::exp((c.logit - top) / params.temperature);
    cumulative_.push_back(total);
  }
  size_t kept = candidates_.size();
  if (params.top_p < 1.0f) {
    const auto enough =
        std::lower_bound(cumulative_.begin(), cumulative_.end(), params.top_p * total);
    kept = std::min(kept, static_cast<size_t>(enough - cumulative_.begin()) + 1);
  }
  if (params.min_p > 0.0f) {
    // Probability relative to the likeliest is exp((logit - top) / temperature).
    const double floor = std::log(params.min_p) * params.temperature;
    while (kept > 1 && candidates_[kept - 1].logit - top < floor) --kept;
  }
  const double uniform = PhiloxUniform(params.seed, static_cast<uint64_t>(draw));
  const auto chosen =
      std::upper_bound(cumulative_.begin(), cumulative_.begin() + static_cast<int64_t>(kept) - 1,
                       uniform * cumulative_[kept - 1]);
  return candidates_[static_cast<size_t>(chosen - cumulative_.begin())].id;
}

void Sampler::AddLogprobs(const SamplingParams& params, std::span<const float> logits,
                          TokenChoice& choice) {
  const double top = logits[static_cast<size_t>(ArgMax(logits))];
  double sum = 0.0;
  for (const float logit : logits)
    if (!std::isnan(logit)) sum += logit == top ? 1.0 : std::exp(logit - top);
  const double log_sum = std::log(sum);
  const auto logprob = [&](float logit) {
    return static_cast<float>((logit == top ? 0.0 : logit - top) - log_sum);
  };
  choice.logprob = logprob(logits[static_cast<size_t>(choice.id)]);
  if (params.num_logprobs == 0) return;
  Collect(logits);
  KeepTop(params.num_logprobs);
  for (const Candidate& c : candidates_) choice.top.push_back({c.id, logprob(c.logit)});
}

}  // namespace fireq
