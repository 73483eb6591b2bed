// What happens to FP32 sums before they are stored: policies on four neighbouring outputs of a
// token.
//
// An epilogue names how many packed rows make one output (kRowsPerOutput; SiLU reads a gate row and
// its up row, 8 further on), finishes four outputs and says where they go.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/peer_sum/words.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

__device__ __forceinline__ uint32_t PackOut(OutType type, float low, float high) {
  return type == OutType::kBf16 ? FloatsToBf16x2(low, high) : FloatsToHalf2(low, high);
}
__device__ __forceinline__ float2 UnpackOut(OutType type, uint32_t packed) {
  if (type == OutType::kBf16) return {Bf16LowToFloat(packed), Bf16HighToFloat(packed)};
  const __half2 halves = *reinterpret_cast<const __half2*>(&packed);
  return __half22float2(halves);
}

// Sums of four neighbouring packed rows, scaled and biased.
__device__ __forceinline__ float4 ScaleAndBias(const GemmI4F8Params& p, float4 sum, float4 scale,
                                               float x_scale, int row) {
  float4 v{sum.x * (x_scale * scale.x), sum.y * (x_scale * scale.y), sum.z * (x_scale * scale.z),
           sum.w * (x_scale * scale.w)};
  if (p.bias != nullptr) {
    const float4 bias = __ldg(reinterpret_cast<const float4*>(p.bias + row));
    v = {v.x + bias.x, v.y + bias.y, v.z + bias.z, v.w + bias.w};
  }
  return v;
}

// silu(x) = x / (1 + e^-x) in FP32, to 2 ulp of the division.
__device__ __forceinline__ float Silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// Outputs to y.
struct ToMemory {
  uint16_t* y;
  __device__ explicit ToMemory(const GemmI4F8Params& p) : y(p.y) {}
  // At element `at`, of a token.
  __device__ __forceinline__ void Store(int, int64_t at, uint2 outputs) const {
    *reinterpret_cast<uint2*>(y + at) = outputs;
  }
};

struct PlainEpilogue {
  static constexpr int kRowsPerOutput = 1;
  static constexpr bool kSends = false;
  using To = ToMemory;
  // What is read at element `at` of y before the sums are there.
  static __device__ __forceinline__ uint2 Read(const GemmI4F8Params&, int64_t) { return {0, 0}; }
  static __device__ __forceinline__ uint2 Finish(OutType type, float4 v, uint2) {
    return {PackOut(type, v.x, v.y), PackOut(type, v.z, v.w)};
  }
};

// Outputs to the box of the rank that owns their token, at the same place of this rank's slot.
struct ToOwners {
  const GemmI4F8Params& p;
  int64_t slot;
  // Behind the wait for the kernel in front: the call before has ended.
  __device__ explicit ToOwners(const GemmI4F8Params& params)
      : p(params), slot(p.end.layout.slot(TurnBehind(*p.end.calls), p.end.rank)) {}
  __device__ __forceinline__ void Store(int token, int64_t at, uint2 outputs) const {
    const int owner = token - token / p.owners * p.owners.value;
    StoreSystem64(p.end.boxes[owner] + slot + 2 * at, Sendable(outputs));
  }
};

struct SendEpilogue : PlainEpilogue {
  static constexpr bool kSends = true;
  using To = ToOwners;
};

// The product is rounded, then the sum: both cross a kernel's border in the served arithmetic.
struct ResidualEpilogue {
  static constexpr int kRowsPerOutput = 1;
  static constexpr bool kSends = false;
  using To = ToMemory;
  static __device__ __forceinline__ uint32_t Add(OutType type, uint32_t product, uint32_t other) {
    const float2 a = UnpackOut(type, product), b = UnpackOut(type, other);
    return PackOut(type, a.x + b.x, a.y + b.y);
  }
  // `at`: element of y and of the residual, a multiple of 4.
  static __device__ __forceinline__ uint2 Read(const GemmI4F8Params& p, int64_t at) {
    return *reinterpret_cast<const uint2*>(p.residual + at);
  }
  static __device__ __forceinline__ uint2 Finish(OutType type, float4 v, uint2 residual) {
    const uint2 product = PlainEpilogue::Finish(type, v, {});
    return {Add(type, product.x, residual.x), Add(type, product.y, residual.y)};
  }
};

struct SiluMulEpilogue : PlainEpilogue {
  static constexpr int kRowsPerOutput = 2;
  static __device__ __forceinline__ float4 Combine(float4 gate, float4 up) {
    return {Silu(gate.x) * up.x, Silu(gate.y) * up.y, Silu(gate.z) * up.z, Silu(gate.w) * up.w};
  }
};

}  // namespace fireq::sm90
