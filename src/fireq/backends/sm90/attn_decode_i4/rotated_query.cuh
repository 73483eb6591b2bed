// A row of Q made where it is used: rotated, scaled and rounded as rope_kv_write does it, in the
// order that DecodeWarp wants. Four lanes a row, lane c with the words of d = FirstDim(c) on.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/minmax.cuh"
#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/rope_kv_write/rotated.cuh"
#include "fireq/formats/act_e4m3.h"

namespace fireq::sm90 {

// Neither q norm nor Hadamard transform.
template <int kDim>
class RotatedQuery {
 public:
  static constexpr int kWords = kDim / 32;

  uint32_t low[kWords], high[kWords];  // E4M3
  float scale;

  // Head `head`, which reads KV head `kv_head`, of token `token` at `position`; zeros for a row
  // that is not there. By whole warps.
  __device__ __forceinline__ RotatedQuery(const RopeKvWriteParams& rope, bool there, int32_t token,
                                          int head, int kv_head, int32_t position) {
    float x[2][kChunk] = {};  // low, high
    if (there) Rotate(rope, token, head, kv_head, position, x);
    float top = 0.0f;
#pragma unroll
    for (int run = 0; run < 2; ++run) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) top = MaxOrNan(top, fabsf(x[run][i]));
    }
    top = MaxOrNan(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
    top = MaxOrNan(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
    const TokenScale of_row = MakeTokenScale(top);
    scale = of_row.scale;
    Round(x[0], of_row.inv_scale, low);
    Round(x[1], of_row.inv_scale, high);
  }

 private:
  static constexpr int kChunk = kDim / 8;
  static constexpr int kLoads = kChunk / 8;  // of 16 bytes a run

  static __device__ __forceinline__ void Rotate(const RopeKvWriteParams& rope, int32_t token,
                                                int head, int kv_head, int32_t position,
                                                float (&x)[2][kChunk]) {
    const int c = threadIdx.x & 3;
    const int d = DecodeWarp<kDim, 1, ProbsE4M3>::FirstDim(c);
    const bool second = c >= 2;  // members of the pairs (f, f + Dh / 2)
    const int f = second ? d - kDim / 2 : d;
    const bf16_t* row =
        rope.qkv + (int64_t{token} * (rope.num_heads + 2 * rope.kv_heads) + head) * kDim + f;
    uint4 a[2][kLoads];
    uint4 b[2][kLoads];
#pragma unroll
    for (int run = 0; run < 2; ++run) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        a[run][i] = *reinterpret_cast<const uint4*>(row + 16 * run + 8 * i);
        b[run][i] = *reinterpret_cast<const uint4*>(row + kDim / 2 + 16 * run + 8 * i);
      }
    }
    const int64_t angle = int64_t{position} * (kDim / 2) + f;
    const float* of_a = (second ? rope.rope_sin : rope.rope_cos) + angle;
    const float* of_b = (second ? rope.rope_cos : rope.rope_sin) + angle;
    const uint32_t sign = second ? 0u : 0x80000000u;  // of b's factors
    const float* crs = rope.crs_q == nullptr ? nullptr : rope.crs_q + kv_head * kDim + d;
#pragma unroll
    for (int run = 0; run < 2; ++run) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int at = 16 * run + 8 * i;
        const uint4 p = a[run][i];
        const uint4 q = b[run][i];
        TurnFour(p.x, p.y, q.x, q.y, of_a + at, of_b + at, sign, x[run] + 8 * i);
        TurnFour(p.z, p.w, q.z, q.w, of_a + at + 4, of_b + at + 4, sign, x[run] + 8 * i + 4);
      }
    }
    if (crs == nullptr) return;
#pragma unroll
    for (int run = 0; run < 2; ++run) {
#pragma unroll
      for (int i = 0; i < kChunk; i += 4) {
        const float4 factors = __ldg(reinterpret_cast<const float4*>(crs + 16 * run + i));
        x[run][i] *= factors.x, x[run][i + 1] *= factors.y;
        x[run][i + 2] *= factors.z, x[run][i + 3] *= factors.w;
      }
    }
  }

  static __device__ __forceinline__ void TurnFour(uint32_t a01, uint32_t a23, uint32_t b01,
                                                  uint32_t b23, const float* of_a,
                                                  const float* of_b, uint32_t sign, float* x) {
    const float4 u = __ldg(reinterpret_cast<const float4*>(of_a));
    const float4 v = __ldg(reinterpret_cast<const float4*>(of_b));
    const auto signed_one = [&](float w) { return __uint_as_float(__float_as_uint(w) ^ sign); };
    x[0] = Turned(Bf16LowToFloat(a01), Bf16LowToFloat(b01), u.x, signed_one(v.x));
    x[1] = Turned(Bf16HighToFloat(a01), Bf16HighToFloat(b01), u.y, signed_one(v.y));
    x[2] = Turned(Bf16LowToFloat(a23), Bf16LowToFloat(b23), u.z, signed_one(v.z));
    x[3] = Turned(Bf16HighToFloat(a23), Bf16HighToFloat(b23), u.w, signed_one(v.w));
  }

  static __device__ __forceinline__ void Round(const float (&x)[kChunk], float inv_scale,
                                               uint32_t (&words)[kWords]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      words[i] = FloatsToE4M3x4(x[4 * i] * inv_scale, x[4 * i + 1] * inv_scale,
                                x[4 * i + 2] * inv_scale, x[4 * i + 3] * inv_scale);
    }
  }
};

}  // namespace fireq::sm90
