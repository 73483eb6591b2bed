// BF16 as 16 raw bits; conversion to float is exact, from float rounds half to even.
#pragma once

#include <bit>
#include <cstdint>

#include "fireq/base/macros.h"

namespace fireq {

using bf16_t = uint16_t;

FIREQ_HD constexpr float Bf16ToFloat(bf16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// NaN stays NaN (quiet), overflow goes to infinity as IEEE has it.
FIREQ_HD constexpr bf16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<bf16_t>((bits >> 16) | 0x0040u);
  return static_cast<bf16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

FIREQ_HD constexpr float RoundToBf16(float value) { return Bf16ToFloat(FloatToBf16(value)); }

}  // namespace fireq
