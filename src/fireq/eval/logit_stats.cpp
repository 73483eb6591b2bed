#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/eval/logit_stats.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h must come first: it includes this file once a target.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "fireq/eval/logit_stats.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Partial sums are folded into a double this often, so that FP32 rounding stays near 1e-7.
constexpr int64_t kBlock = 1024;

float MaxOf(const float* x, int64_t count) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto best = hn::Set(d, -INFINITY);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) best = hn::Max(best, hn::LoadU(d, x + i));
  float out = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; i < count; ++i) out = std::max(out, x[i]);
  return out;
}

double SumExp(const float* x, int64_t count, float offset) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto shift = hn::Set(d, offset);
  double total = 0.0;
  int64_t i = 0;
  while (i + lanes <= count) {
    auto sum = hn::Zero(d);
    const int64_t end = std::min(count, i + kBlock);
    for (; i + lanes <= end; i += lanes) {
      const auto value = hn::Sub(hn::LoadU(d, x + i), shift);
      // On some targets Exp makes a number of a NaN.
      sum = hn::Add(sum, hn::IfThenElse(hn::IsNaN(value), value, hn::Exp(d, value)));
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < count; ++i) total += std::exp(x[i] - offset);
  return total;
}

double WeightedDifference(const float* p, float p_lse, const float* q, float q_lse, int64_t count) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto p_shift = hn::Set(d, p_lse);
  const auto q_shift = hn::Set(d, q_lse);
  double total = 0.0;
  int64_t i = 0;
  while (i + lanes <= count) {
    auto sum = hn::Zero(d);
    const int64_t end = std::min(count, i + kBlock);
    for (; i + lanes <= end; i += lanes) {
      const auto log_p = hn::Sub(hn::LoadU(d, p + i), p_shift);
      const auto log_q = hn::Sub(hn::LoadU(d, q + i), q_shift);
      sum = hn::MulAdd(hn::Exp(d, log_p), hn::Sub(log_p, log_q), sum);
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < count; ++i)
    total += std::exp(p[i] - p_lse) * (static_cast<double>(p[i] - p_lse) - (q[i] - q_lse));
  return total;
}

}  // namespace fireq::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq {

HWY_EXPORT(MaxOf);
HWY_EXPORT(SumExp);
HWY_EXPORT(WeightedDifference);

double LogSumExp(const float* logits, int64_t count) {
  const float top = HWY_DYNAMIC_DISPATCH(MaxOf)(logits, count);
  if (!std::isfinite(top)) return NAN;
  return top + std::log(HWY_DYNAMIC_DISPATCH(SumExp)(logits, count, top));
}

double KlDivergence(const float* p_logits, double p_lse, const float* q_logits, double q_lse,
                    int64_t count) {
  return HWY_DYNAMIC_DISPATCH(WeightedDifference)(p_logits, static_cast<float>(p_lse), q_logits,
                                                  static_cast<float>(q_lse), count);
}

int64_t ArgMax(const float* logits, int64_t count) {
  const float top = HWY_DYNAMIC_DISPATCH(MaxOf)(logits, count);
  const float* at = std::find(logits, logits + count, top);
  return at == logits + count ? -1 : at - logits;
}

}  // namespace fireq
#endif
