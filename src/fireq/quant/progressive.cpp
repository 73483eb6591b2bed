#include "fireq/quant/progressive.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "fireq/base/error.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/rounding.h"
#include "fireq/formats/weight_i4.h"
#include "fireq/quant/grid.h"

namespace fireq::quant {
namespace {

constexpr float kInt8Range = 119.0f;  // so that (q - z) s1 stays within INT8

// One group of a row in units of its s0: `codes` are INT8 values, `out` the same after INT4.
void RoundGroup(std::span<const float> codes, float clip, std::span<float> out) {
  float lo = 0.0f, hi = 0.0f;
  for (const float x : codes) {
    lo = std::min(lo, x * clip);
    hi = std::max(hi, x * clip);
  }
  const float scale = std::max(1.0f, RoundHalfEven((hi - lo) / 15.0f));
  const float zero = std::clamp(RoundHalfEven(-lo / scale), 0.0f, 15.0f);
  for (size_t i = 0; i < codes.size(); ++i) {
    const float code = std::clamp(RoundHalfEven(codes[i] / scale) + zero, 0.0f, 15.0f);
    out[i] = std::clamp((code - zero) * scale, -128.0f, 127.0f);
  }
}

double ErrorOf(std::span<const float> w, std::span<const float> rounded, std::span<const float> h,
               float s0) {
  double error = 0.0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double difference = double{rounded[i]} * s0 - w[i];
    error += double{h[i]} * difference * difference;
  }
  return error;
}

}  // namespace

Matrix<float> RoundProgressively(const Matrix<float>& w, std::span<const float> h, bool search,
                                 ThreadPool& pool) {
  FIREQ_CHECK(std::ssize(h) == w.cols, kShapeMismatch, h.size(), " channel weights for ", w.cols,
              " columns");
  Matrix<float> out(w.rows, w.cols);
  pool.ParallelFor(w.rows, 8, [&](int64_t begin, int64_t end, int) {
    std::array<float, kGroup> codes, rounded;
    for (int64_t n = begin; n < end; ++n) {
      float largest = 0.0f;
      for (int64_t k = 0; k < w.cols; ++k) largest = std::max(largest, std::fabs(w.at(n, k)));
      const float s0 = largest > 0.0f ? Bf16ToFloat(FloatToBf16(largest / kInt8Range)) : 1.0f;
      for (int64_t first = 0; first < w.cols; first += kGroup) {
        const size_t count = static_cast<size_t>(std::min<int64_t>(kGroup, w.cols - first));
        const std::span<const float> group(w.row(n) + first, count);
        for (size_t i = 0; i < count; ++i)
          codes[i] = std::clamp(RoundHalfEven(group[i] / s0), -kInt8Range, kInt8Range);
        double least = 0.0;
        for (int step = 0; step < (search ? kClipSteps : 1); ++step) {
          const std::span<float> candidate(rounded.data(), count);
          RoundGroup({codes.data(), count}, ClipFactor(step), candidate);
          const double error =
              ErrorOf(group, candidate, h.subspan(static_cast<size_t>(first), count), s0);
          if (step > 0 && error >= least) continue;
          least = error;
          for (size_t i = 0; i < count; ++i)
            out.at(n, first + static_cast<int64_t>(i)) = candidate[i] * s0;
        }
      }
    }
  });
  return out;
}

}  // namespace fireq::quant
