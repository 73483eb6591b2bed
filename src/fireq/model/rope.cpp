#include "fireq/model/rope.h"

#include <cmath>
#include <numbers>
#include <vector>

namespace fireq {
namespace {

// Llama-3.1's rule: wavelengths beyond the original context are stretched by `factor`, short ones
// stay, and those between are blended.
float ScaleLlama3(const RopeConfig& rope, float inv_freq) {
  const double wavelength = 2.0 * std::numbers::pi / inv_freq;
  const double original = static_cast<double>(rope.original_context);
  if (wavelength > original / rope.low_freq_factor)
    return static_cast<float>(inv_freq / rope.factor);
  if (wavelength < original / rope.high_freq_factor) return inv_freq;
  const double smooth = (original / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return static_cast<float>((1.0 - smooth) * inv_freq / rope.factor + smooth * inv_freq);
}

}  // namespace

RopeTable MakeRopeTable(const RopeConfig& rope, int64_t head_dim, int64_t length) {
  const int64_t half = head_dim / 2;
  std::vector<float> inv_freq(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float plain = 1.0f / std::pow(static_cast<float>(rope.theta), exponent);
    inv_freq[static_cast<size_t>(i)] =
        rope.scaling == RopeScaling::kLlama3 ? ScaleLlama3(rope, plain) : plain;
  }
  RopeTable table{Tensor::Empty(DType::kF32, {length, half}),
                  Tensor::Empty(DType::kF32, {length, half})};
  float* cos = table.cos.as<float>();
  float* sin = table.sin.as<float>();
  for (int64_t position = 0; position < length; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * inv_freq[static_cast<size_t>(i)];
      cos[position * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sin[position * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return table;
}

}  // namespace fireq
