// Weights of random values by counter: the same bytes on every backend, without any state.
//
// For measuring speed where real weights are out of reach, and for comparing backends. Magnitudes
// are such that a row of K products of unit variance has about unit variance again.
#pragma once

#include <cstdint>

#include "fireq/base/philox.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/weight_i4.h"

namespace fireq {

inline constexpr int kRandomCodes = 32;  // that one draw gives

// Codes of columns 32 `block` .. + 31 of `row`: code i is nibble i % 8 of word i / 8.
FIREQ_HD constexpr PhiloxBlock RandomCodes(uint64_t seed, int64_t row, int64_t block) {
  return Philox(seed, {{static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32),
                        static_cast<uint32_t>(block), 1}});
}
FIREQ_HD constexpr int RandomCode(const PhiloxBlock& codes, int i) {
  return static_cast<int>(codes.word[i / 8] >> (4 * (i % 8)) & 15u);
}

struct RandomGroup {
  e4m3_t scale;  // 0.5 .. 1.5
  uint8_t zero;  // 6 .. 9
};
FIREQ_HD constexpr RandomGroup RandomGroupOf(uint64_t seed, int64_t row, int64_t group) {
  const PhiloxBlock draw =
      Philox(seed, {{static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32),
                     static_cast<uint32_t>(group), 2}});
  const float scale = 0.5f + static_cast<float>(draw.word[0] >> 16) * 0x1p-16f;
  return {FloatToE4M3(scale), static_cast<uint8_t>(6 + draw.word[1] % 4)};
}

// A power of two: codes around their zero point spread by 4.7 and scales lie around 1, so that the
// weight's standard deviation is within a factor of 1.5 of 1 / sqrt(K).
FIREQ_HD constexpr float RandomWeightT(int64_t k) {
  float t = 4.0f;
  while (t * t < 14.0f * static_cast<float>(k)) t *= 2.0f;
  return t;
}

// Element `index` of a BF16 tensor: uniform, standard deviation `spread`.
FIREQ_HD constexpr bf16_t RandomBf16Of(uint64_t seed, int64_t index, float spread) {
  const PhiloxBlock draw =
      Philox(seed, {{static_cast<uint32_t>(index >> 2), static_cast<uint32_t>(index >> 34), 0, 3}});
  const float uniform = static_cast<float>(draw.word[index & 3] >> 8) * 0x1p-23f - 1.0f;
  return FloatToBf16(uniform * (spread * 1.7320508f));
}

}  // namespace fireq
