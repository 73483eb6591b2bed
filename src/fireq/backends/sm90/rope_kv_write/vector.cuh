// One head of one token in the registers of 16 or 32 neighbouring lanes.
//
// Lane p of kLanes = Dh/4 holds d = 2p, 2p + 1, Dh/2 + 2p, Dh/2 + 2p + 1: both members of two RoPE
// pairs, and neighbours for 4-byte loads. With Dh = 64 a warp holds two vectors that may take
// different branches, so every shuffle names its own lanes only.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/kv_i4.h"

namespace fireq::sm90 {

template <int kHeadDim>
struct Vector {
  static constexpr int kLanes = kHeadDim / 4;
  static constexpr int kHalf = kHeadDim / 2;

  float value[4];

  __device__ static int Place() { return static_cast<int>(threadIdx.x) % kLanes; }
  __device__ static int Sub() { return static_cast<int>(threadIdx.x) % 32 / kLanes; }
  __device__ static uint32_t Mask() { return kLanes == 32 ? 0xFFFFFFFFu : 0xFFFFu << (16 * Sub()); }
  // d of value i.
  __device__ static int Index(int i) { return i / 2 * kHalf + 2 * Place() + i % 2; }

  __device__ explicit Vector(const bf16_t* row) {
    const auto* words = reinterpret_cast<const uint32_t*>(row) + Place();
    const uint32_t low = words[0];
    const uint32_t high = words[kHalf / 2];
    value[0] = Bf16LowToFloat(low);
    value[1] = Bf16HighToFloat(low);
    value[2] = Bf16LowToFloat(high);
    value[3] = Bf16HighToFloat(high);
  }

  __device__ void Multiply(const float* factors) {
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] *= factors[Index(i)];
  }

  __device__ void RmsNorm(const float* weight, float eps) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) squares += value[i] * value[i];
#pragma unroll
    for (int lane = kLanes / 2; lane > 0; lane /= 2)
      squares += __shfl_xor_sync(Mask(), squares, lane, kLanes);
    const float rms = sqrtf(squares / static_cast<float>(kHeadDim) + eps);
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] = value[i] / rms * weight[Index(i)];
  }

  // Pairs (d, d + Dh/2); cos and sin are the position's rows [Dh/2].
  __device__ void Rotate(const float* cos, const float* sin) {
    const float2 c = reinterpret_cast<const float2*>(cos)[Place()];
    const float2 s = reinterpret_cast<const float2*>(sin)[Place()];
    const float a = value[0], b = value[1];
    value[0] = a * c.x - value[2] * s.x;
    value[1] = b * c.y - value[3] * s.y;
    value[2] = value[2] * c.x + a * s.x;
    value[3] = value[3] * c.y + b * s.y;
  }

  // Orthonormal Walsh-Hadamard transform, strides ascending as on the CPU.
  __device__ void Hadamard() {
    Butterfly(value[0], value[1]);
    Butterfly(value[2], value[3]);
#pragma unroll
    for (int lane = 1; lane < kLanes; lane *= 2) {
      const bool upper = (Place() & lane) != 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float other = __shfl_xor_sync(Mask(), value[i], lane, kLanes);
        value[i] = upper ? other - value[i] : value[i] + other;
      }
    }
    Butterfly(value[0], value[2]);
    Butterfly(value[1], value[3]);
    const float scale = 1.0f / sqrtf(static_cast<float>(kHeadDim));
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] *= scale;
  }

  // Largest magnitude. As unsigned bits a NaN is larger than any number, so it stays.
  __device__ float AbsMax() const {
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) bits = max(bits, __float_as_uint(value[i]) & 0x7FFFFFFFu);
    return __uint_as_float(__reduce_max_sync(Mask(), bits));
  }

  // Scale and zero point on `grid` (not kFloat); NaN scale for a vector with a NaN.
  __device__ KvScale ScaleOf(KvGrid grid) const {
    if (grid == KvGrid::kSymmetric) return SymmetricKvScale(AbsMax());
    if (grid == KvGrid::kSigned) return SignedKvScale(Extreme());
    uint32_t high = 0, low = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = __float_as_uint(value[i]);
      // A NaN of either sign counts as high, so that it reaches the scale.
      const bool negative = value[i] < 0.0f;
      high = max(high, negative ? 0u : bits & 0x7FFFFFFFu);
      low = max(low, negative ? bits & 0x7FFFFFFFu : 0u);
    }
    return AsymmetricKvScale(-__uint_as_float(__reduce_max_sync(Mask(), low)),
                             __uint_as_float(__reduce_max_sync(Mask(), high)));
  }

 private:
  __device__ static void Butterfly(float& a, float& b) {
    const float sum = a + b;
    b = a - b;
    a = sum;
  }

  // The first element of largest magnitude, with its sign.
  __device__ float Extreme() const {
    const uint32_t largest = __float_as_uint(AbsMax());
    uint32_t first = 0xFFFFFFFFu;  // (d, sign), so that the smallest is the first
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = __float_as_uint(value[i]);
      if ((bits & 0x7FFFFFFFu) == largest)
        first = min(first, static_cast<uint32_t>(Index(i)) * 2 + (bits >> 31));
    }
    first = __reduce_min_sync(Mask(), first);
    return __uint_as_float(largest | (first << 31));
  }
};

}  // namespace fireq::sm90
