// A quantised linear weight as tensors, in the logical order of formats/weight_i4.h.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "fireq/formats/weight_i4.h"
#include "fireq/tensor/tensor.h"

namespace fireq {

struct WeightI4 {
  Tensor codes;    // U8 [N, ceil(K/2)], low nibble = even k
  Tensor scale;    // E4M3 [N, ceil(K/128)], either sign, never zero or NaN
  Tensor zero;     // U8 [N, ceil(K/128)], 0..15
  float t = 1.0f;  // power of two; w_hat = (q - z) * s / t
  int64_t n = 0;
  int64_t k = 0;
};

// What a checkpoint calls them, after the name of the linear.
inline constexpr const char* kStoredCodes = ".weight_codes";
inline constexpr const char* kStoredScale = ".weight_scale";
inline constexpr const char* kStoredZero = ".weight_zero";
inline constexpr const char* kStoredT = ".weight_t";  // F32 []

// The four tensors of `weight` under their names in a checkpoint.
std::vector<std::pair<std::string, Tensor>> PartsOf(const WeightI4& weight,
                                                    const std::string& linear);

// Throws kShapeMismatch (tensors that are not those of n and k) or kCorrupt (values), naming the
// tensor of `linear`, the index and the value. Values are read only where they lie on the host.
void CheckWeightI4(const WeightI4& weight, const std::string& linear);

}  // namespace fireq
