// What one lane of a consumer warp holds of 16 query rows times 128 keys, and the small things it
// does with it: lane l holds rows l / 4 and + 8 (index h), c = l % 4 of every four keys.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"

namespace fireq::sm90 {

struct PrefillFragment {
  using Probs = uint32_t[kPrefillKeys / 8];  // four keys a word
  using Scores = float[kPrefillKeys / 2];

  // Of keys 16 b + 4 c + e: the accumulator's register.
  static constexpr __device__ int Register(int b, int e, int h) {
    return 4 * (2 * b + e / 2) + 2 * h + e % 2;
  }

  // The largest so far and of four scores more, if any is positive: as integers.
  static __device__ __forceinline__ void Highest(const Scores& s, int b, int h, int32_t& top) {
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      top = __vimax3_s32(top, __float_as_int(s[Register(b, e, h)]),
                         __float_as_int(s[Register(b, e + 1, h)]));
    }
  }
  // This lane's of a row, of either sign.
  static __device__ __forceinline__ float Maximum(const Scores& s, int h) {
    float highest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kPrefillKeys / 4; ++i) {
      highest = fmaxf(highest, s[4 * (i / 2) + 2 * h + i % 2]);
    }
    return highest;
  }

  // Of the four lanes of a row.
  static __device__ __forceinline__ float QuadMax(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
  }
  static __device__ __forceinline__ float QuadMin(float x) {
    x = fminf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
    return fminf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
  }

  // What rounding left over, rounded.
  static __device__ __forceinline__ uint32_t Remainder(uint32_t rounded, const float (&x)[4]) {
    const uint32_t low = E4M3x2ToHalf2(static_cast<uint16_t>(rounded));
    const uint32_t high = E4M3x2ToHalf2(static_cast<uint16_t>(rounded >> 16));
    const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&low));
    const float2 b = __half22float2(*reinterpret_cast<const __half2*>(&high));
    return FloatsToE4M3x4(x[0] - a.x, x[1] - a.y, x[2] - b.x, x[3] - b.y);
  }
  static __device__ __forceinline__ uint32_t LowHalf2(uint32_t bytes) {
    return E4M3x2ToHalf2(static_cast<uint16_t>(bytes));
  }

  // Provably the same in all lanes.
  static __device__ __forceinline__ int32_t Uniform(int32_t x) {
    return __shfl_sync(0xFFFFFFFFu, x, 0);
  }
  static __device__ __forceinline__ uint32_t Thread() { return PrefillThread(); }
  // 0, which the compiler does not know.
  static __device__ __forceinline__ uint32_t Never() {
    uint32_t none;
    asm volatile("mov.u32 %0, %%tid.y;" : "=r"(none));
    return none;
  }
};

}  // namespace fireq::sm90
