// 4-bit codes: range and nibble order. Two codes a byte, the even index in the low nibble.
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"

namespace fireq {

inline constexpr int kCodeMax = 15;       // codes are 0..15 everywhere
inline constexpr int kSymmetricZero = 8;  // zero point that makes codes -8..7
inline constexpr int kGroup = 128;        // weights along K that share a scale and a zero point

FIREQ_HD constexpr uint8_t PackCodes(uint8_t even, uint8_t odd) {
  return static_cast<uint8_t>((even & 0xFu) | (odd << 4));
}

// Code `i` of a packed run.
FIREQ_HD constexpr uint8_t CodeAt(const uint8_t* packed, int64_t i) {
  return static_cast<uint8_t>((packed[i >> 1] >> ((i & 1) * 4)) & 0xFu);
}

}  // namespace fireq
