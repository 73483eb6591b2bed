// OCP E4M3 (1 sign, 4 exponent bits of bias 7, 3 mantissa bits; no infinity, 0x7F and 0xFF are
// NaN).
//
// E4M3(x) of the design: round half to even, saturate at +-448, NaN stays NaN. Smallest subnormal
// 2^-9. Source: OCP 8-bit floating point specification 1.0; docs/SERVED_ARITHMETIC.md.
#pragma once

#include <bit>
#include <cstdint>

#include "fireq/base/macros.h"

namespace fireq {

using e4m3_t = uint8_t;

inline constexpr float kE4M3Max = 448.0f;
inline constexpr float kE4M3MinSubnormal = 0x1p-9f;

FIREQ_HD constexpr float E4M3ToFloat(e4m3_t code) {
  const uint32_t exponent = (code >> 3) & 0xFu;
  const uint32_t mantissa = code & 0x7u;
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  if ((code & 0x7Fu) == 0x7Fu) return std::bit_cast<float>(sign | 0x7FC00000u);
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 120u) << 23) | (mantissa << 20));
  const float magnitude = static_cast<float>(mantissa) * kE4M3MinSubnormal;
  return sign ? -magnitude : magnitude;
}

FIREQ_HD constexpr e4m3_t FloatToE4M3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const e4m3_t sign = static_cast<e4m3_t>((bits >> 24) & 0x80u);
  if (magnitude > 0x7F800000u) return static_cast<e4m3_t>(sign | 0x7Fu);
  // 464 is the midpoint between 448 and the 480 that would come next: from there on saturation and
  // rounding agree.
  if (magnitude >= 0x43E80000u) return static_cast<e4m3_t>(sign | 0x7Eu);
  if (magnitude < 0x3C800000u) {
    // Below 2^-6 the grid is uniform with step 2^-9: adding 2^14 leaves the rounded multiple of
    // 2^-9 in the low mantissa bits (ulp of 2^14 is 2^-9), rounded half to even by the addition.
    const float shifted = std::bit_cast<float>(magnitude) + 16384.0f;
    return static_cast<e4m3_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
  return static_cast<e4m3_t>(sign | ((rounded >> 20) - (120u << 3)));
}

FIREQ_HD constexpr float RoundToE4M3(float value) { return E4M3ToFloat(FloatToE4M3(value)); }

}  // namespace fireq
