// What lies in a box, and whose turn it is.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/peer_sum/params.h"

namespace fireq::sm90 {

// A word of a box that nobody has written: two BF16 NaNs that no sum makes. What is sent has
// another NaN in their place, so a word that is not empty is a word that has come: no flag is
// needed, and no order among words.
constexpr uint32_t kEmpty = kEmptyBoxByte * 0x01010101u;
constexpr uint32_t kOtherNan = 0x7FFF7FFFu;

__device__ __forceinline__ uint32_t Sendable(uint32_t word) {
  return word == kEmpty ? kOtherNan : word;
}
__device__ __forceinline__ uint2 Sendable(const uint2& v) { return {Sendable(v.x), Sendable(v.y)}; }
__device__ __forceinline__ uint4 Sendable(const uint4& v) {
  return {Sendable(v.x), Sendable(v.y), Sendable(v.z), Sendable(v.w)};
}
__device__ __forceinline__ uint4 Emptiness() { return {kEmpty, kEmpty, kEmpty, kEmpty}; }
// Without branches: all of a thread's loads are on their way before the first is looked at.
__device__ __forceinline__ bool HasEmpty(const uint4& v) {
  return ((v.x == kEmpty) | (v.y == kEmpty) | (v.z == kEmpty) | (v.w == kEmpty)) != 0;
}

// Turn of the call behind `calls` others.
__device__ __forceinline__ int TurnBehind(uint32_t calls) {
  return static_cast<int>((calls + 1) % 2);
}

}  // namespace fireq::sm90
