// Sums of rows of 32 floats times factors, y[i] += sum_k factors[k][i] x[k]: the loop of the solver
// and of second moments, on vectors. Included once for every vector width (Highway's
// foreach_target.h), hence no #pragma once.
#if defined(FIREQ_QUANT_ROW_SUMS_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FIREQ_QUANT_ROW_SUMS_H
#undef FIREQ_QUANT_ROW_SUMS_H
#else
#define FIREQ_QUANT_ROW_SUMS_H
#endif

#include <algorithm>
#include <span>

#include "fireq/tensor/matrix.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::quant::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kRowWidth = 32;
using RowLanes = hn::CappedTag<float, 16>;  // divides a row

// For kOutputs consecutive i; y's rows are `stride` floats apart.
template <int64_t kOutputs>
HWY_INLINE void AddOutputs(std::span<const float* const> factors, int64_t i, const float* x,
                           float* y, int64_t stride) {
  const RowLanes d;
  constexpr int64_t kLanes = int64_t{hn::MaxLanes(RowLanes())};
  constexpr int64_t kVectors = kRowWidth / kLanes;
  hn::Vec<RowLanes> sum[kOutputs][kVectors];
  for (int64_t o = 0; o < kOutputs; ++o)
    for (int64_t v = 0; v < kVectors; ++v)
      sum[o][v] = hn::LoadU(d, y + (i + o) * stride + v * kLanes);
  for (const float* factor : factors) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const auto value = hn::LoadU(d, x + v * kLanes);
      for (int64_t o = 0; o < kOutputs; ++o)
        sum[o][v] = hn::MulAdd(hn::Set(d, factor[i + o]), value, sum[o][v]);
    }
    x += kRowWidth;
  }
  for (int64_t o = 0; o < kOutputs; ++o)
    for (int64_t v = 0; v < kVectors; ++v)
      hn::StoreU(sum[o][v], d, y + (i + o) * stride + v * kLanes);
}

// For i in [from, to). x has rows of kRowWidth, y's begin `stride` floats apart.
HWY_INLINE void AddSums(std::span<const float* const> factors, int64_t from, int64_t to,
                        const float* x, float* y, int64_t stride) {
  constexpr size_t kDepth = 64;  // terms whose factors stay in the nearest cache
  // As many sums as registers hold beside their operands.
  constexpr int64_t kLanes = int64_t{hn::MaxLanes(RowLanes())};
  constexpr int64_t kSums = kLanes == 16 ? 24 : 12;
  constexpr int64_t kOutputs = std::max<int64_t>(kSums * kLanes / kRowWidth, 1);
  for (size_t k = 0; k < factors.size(); k += kDepth) {
    const auto part = factors.subspan(k, std::min(kDepth, factors.size() - k));
    const float* inputs = x + static_cast<int64_t>(k) * kRowWidth;
    int64_t i = from;
    for (; i + kOutputs <= to; i += kOutputs) AddOutputs<kOutputs>(part, i, inputs, y, stride);
    for (; i < to; ++i) AddOutputs<1>(part, i, inputs, y, stride);
  }
}

HWY_INLINE void AddSums(std::span<const float* const> factors, int64_t from, int64_t to,
                        const float* x, Matrix<float>& y) {
  AddSums(factors, from, to, x, y.row(0), y.cols);
}

}  // namespace fireq::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
