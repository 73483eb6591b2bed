// From stored codes to wgmma A operands in registers (formats/weight_i4_tile.h has their order).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/wgmma.cuh"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::sm90 {

// The codes of one thread for a group: words 2 s + h of step s and row half h.
struct CodeWords {
  uint32_t word[8];
};
__device__ __forceinline__ CodeWords LoadCodes(const uint8_t* tile, int thread) {
  const uint4 a = LoadShared128(tile + thread * 16);
  const uint4 b = LoadShared128(tile + kTileCodeBytes / 2 + thread * 16);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// Scale and zero point of a thread's two rows: s, z, s', z'.
__device__ __forceinline__ uint32_t LoadScaleZeros(const uint8_t* tile, int warp, int lane) {
  return LoadShared32(SharedAddress(tile + kTileCodeBytes + 4 * (8 * warp + lane / 4)));
}

// *exact*: a code 0..15 in the low bits of a byte is the E4M3 number code * 2^-9. Three
// instructions for eight weights.
inline constexpr float kExactOperandUnit = 512.0f;  // what the operand must be multiplied by

__device__ __forceinline__ void ExactOperands(const CodeWords& codes, uint32_t (&a)[16]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    a[4 * (i / 2) + i % 2] = codes.word[i] & 0x0F0F0F0Fu;
    a[4 * (i / 2) + 2 + i % 2] = (codes.word[i] >> 4) & 0x0F0F0F0Fu;
  }
}

// Scale and scale x zero point of a thread's two rows (row half h), for one group of *exact*.
struct GroupScales {
  float scale[2];       // s * kExactOperandUnit
  float neg_offset[2];  // -s z
};
__device__ __forceinline__ GroupScales MakeGroupScales(uint32_t packed) {
  GroupScales out;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    // s, and a zero point read as E4M3: z * 2^-9
    const uint32_t halves = E4M3x2ToHalf2(static_cast<uint16_t>(packed >> (16 * h)));
    const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&halves));
    out.scale[h] = values.x * kExactOperandUnit;
    out.neg_offset[h] = -out.scale[h] * values.y;
  }
  return out;
}

// *table*: E4M3((q - z) s), the product in FP16, where it is exact: |q - z| has 4 bits, s has 4,
// and both are in range. So is every step on the way:
//   0x5400 | byte is the FP16 number 64 + high nibble + low nibble / 16,
//   without its last four bits it is 64 + high nibble, and the difference the low nibble's
//   sixteenth,
// and z s, 16 s and (64 + z) s, at most 79 x 15 units of s, have 11 bits. Half of the work falls to
// the FMA pipe this way. Looking 16 products up by byte permutes leaves all of it to the integer
// pipe, at half whose rate it then runs, beside the tensor cores' use of the registers.
struct HalfScales {
  uint32_t high[2];  // s, in both halves, of row half h
  uint32_t low[2];   // 16 s
  uint32_t even[2];  // -z s
  uint32_t odd[2];   // -(64 + z) s
};
__device__ __forceinline__ HalfScales MakeHalfScales(uint32_t packed) {
  HalfScales out;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    // s, and a zero point read as E4M3: z * 2^-9
    const uint32_t halves = E4M3x2ToHalf2(static_cast<uint16_t>(packed >> (16 * h)));
    const uint32_t zero = HighHalfTwice(halves);
    out.high[h] = LowHalfTwice(halves);
    constexpr uint32_t kMinus512 = 0xE000E000, kMinus64 = 0xD400D400, kSixteen = 0x4C004C00;
    out.low[h] = MulHalf2(out.high[h], kSixteen);
    out.even[h] = MulHalf2(MulHalf2(zero, kMinus512), out.high[h]);
    out.odd[h] = FmaHalf2(out.high[h], kMinus64, out.even[h]);
  }
  return out;
}

// FP16's 64 for permutes, which read its byte 1 only, as the compiler cannot know from an address
// in shared memory: as a constant it would be part of every permute and the selectors be moved into
// registers.
__device__ __forceinline__ uint32_t OpaqueSixtyFour(uint32_t shared_address) {
  return 0x5400 | shared_address >> 31;
}
// The same with the clock's byte 0, so that no permute by it comes before this: the compiler would
// convert codes between the products in front of which they were read, and hold these up.
__device__ __forceinline__ uint32_t SixtyFourFromNow(uint32_t sixty_four) {
  return sixty_four | (Clock() & 0xFF);
}

__device__ __forceinline__ void TableOperands(const CodeWords& codes, const HalfScales& scales,
                                              uint32_t sixty_four, uint32_t (&a)[16]) {
  constexpr uint32_t kHighNibble = 0xFFF0FFF0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int h = i % 2;
    uint32_t even[2], odd[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint32_t both = PermuteBytes(codes.word[i], sixty_four, j == 0 ? 0x5150 : 0x5352);
      const uint32_t high = both & kHighNibble;
      const uint32_t low = SubHalf2(both, high);
      even[j] = FmaHalf2(low, scales.low[h], scales.even[h]);
      odd[j] = FmaHalf2(high, scales.high[h], scales.odd[h]);
    }
    a[4 * (i / 2) + h] = Halves2ToE4M3x4(even[0], even[1]);
    a[4 * (i / 2) + 2 + h] = Halves2ToE4M3x4(odd[0], odd[1]);
  }
}

// The four wgmma of one group; the first starts from zero if `accumulate` is 0.
template <int kTokens>
__device__ __forceinline__ void MultiplyGroup(float (&acc)[kTokens / 2], const uint32_t (&a)[16],
                                              uint64_t x_descriptor, int accumulate) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint32_t operand[4] = {a[4 * step], a[4 * step + 1], a[4 * step + 2], a[4 * step + 3]};
    // 32 bytes along K inside the 128-byte swizzle atom: + 2 in the descriptor.
    WgmmaE4M3<kTokens>::Rs(acc, operand, x_descriptor + 2 * step, step == 0 ? accumulate : 1);
  }
}

}  // namespace fireq::sm90
