#include "fireq/quant/progressive.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "fireq/base/error.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/rounding.h"
#include "fireq/formats/weight_i4.h"

namespace fireq::quant {
namespace {

constexpr float kInt8Range = 119.0f;  // so that (q - z) s1 stays within INT8

// The clip factors that QServe's calibration tries: 80 steps of 0.01.
constexpr int kClipFactors = 81;
constexpr float kClipStepSize = 0.01f;

// The second stage: INT4 codes of INT8 codes.
struct GroupScale {
  float scale = 1.0f;  // s1, a whole number
  float zero = 0.0f;
  bool operator==(const GroupScale&) const = default;
};

GroupScale ScaleOf(float lo, float hi) {
  GroupScale out;
  out.scale = std::max(1.0f, RoundHalfEven((hi - lo) / 15.0f));
  out.zero = std::clamp(RoundHalfEven(-lo / out.scale), 0.0f, 15.0f);
  return out;
}

void RoundGroup(std::span<const float> codes, const GroupScale& by, std::span<float> out) {
  for (size_t i = 0; i < codes.size(); ++i) {
    const float code = std::clamp(RoundHalfEven(codes[i] / by.scale) + by.zero, 0.0f, 15.0f);
    out[i] = std::clamp((code - by.zero) * by.scale, -128.0f, 127.0f);
  }
}

// d^T M d for d = rounded s0 - w, M being `moments` [count, 128].
float OutputError(std::span<const float> w, std::span<const float> rounded, float s0,
                  const float* moments) {
  std::array<float, kGroup> product{};
  float error = 0.0f;
  for (size_t i = 0; i < w.size(); ++i) {
    const float d = rounded[i] * s0 - w[i];
    const float* row = moments + i * kGroup;
    for (size_t j = 0; j < product.size(); ++j) product[j] += d * row[j];
  }
  for (size_t j = 0; j < w.size(); ++j) error += product[j] * (rounded[j] * s0 - w[j]);
  return error;
}

// `codes` are a group's INT8 values in units of s0; `out` the same after INT4.
void RoundBestGroup(std::span<const float> w, std::span<const float> codes, float s0,
                    const float* moments, std::span<float> out) {
  const auto [lo, hi] = std::minmax_element(codes.begin(), codes.end());
  const float low = std::min(*lo, 0.0f), high = std::max(*hi, 0.0f);
  GroupScale last = ScaleOf(low, high);
  RoundGroup(codes, last, out);
  if (moments == nullptr) return;
  std::array<float, kGroup> rounded;
  const std::span<float> candidate(rounded.data(), codes.size());
  float least = OutputError(w, out, s0, moments);
  for (int step = 1; step < kClipFactors; ++step) {
    const float clip = 1.0f - kClipStepSize * static_cast<float>(step);
    const GroupScale scale = ScaleOf(low * clip, high * clip);
    if (scale == last) continue;
    last = scale;
    RoundGroup(codes, scale, candidate);
    const float error = OutputError(w, candidate, s0, moments);
    if (error >= least) continue;
    least = error;
    std::copy(candidate.begin(), candidate.end(), out.begin());
  }
}

}  // namespace

Matrix<float> RoundProgressively(const Matrix<float>& w, const Matrix<float>* moments,
                                 ThreadPool& pool) {
  FIREQ_CHECK(moments == nullptr || (moments->rows == w.cols && moments->cols == kGroup),
              kShapeMismatch, "moments of ", moments == nullptr ? 0 : moments->rows,
              " channels for ", w.cols, " columns");
  Matrix<float> out(w.rows, w.cols);
  pool.ParallelFor(w.rows, 8, [&](int64_t begin, int64_t end, int) {
    std::array<float, kGroup> codes;
    for (int64_t n = begin; n < end; ++n) {
      float largest = 0.0f;
      for (int64_t k = 0; k < w.cols; ++k) largest = std::max(largest, std::fabs(w.at(n, k)));
      const float s0 = largest > 0.0f ? Bf16ToFloat(FloatToBf16(largest / kInt8Range)) : 1.0f;
      for (int64_t first = 0; first < w.cols; first += kGroup) {
        const size_t count = static_cast<size_t>(std::min<int64_t>(kGroup, w.cols - first));
        const std::span<const float> group(w.row(n) + first, count);
        const std::span<float> rounded(out.row(n) + first, count);
        for (size_t i = 0; i < count; ++i)
          codes[i] = std::clamp(RoundHalfEven(group[i] / s0), -kInt8Range, kInt8Range);
        RoundBestGroup(group, {codes.data(), count}, s0,
                       moments == nullptr ? nullptr : moments->row(first), rounded);
        for (float& x : rounded) x *= s0;
      }
    }
  });
  return out;
}

}  // namespace fireq::quant
