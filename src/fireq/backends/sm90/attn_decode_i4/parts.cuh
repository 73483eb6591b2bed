// Parts of a segment's softmax sums, each relative to a maximum of its own: how they are added, and
// the workspace through which CTAs of different clusters hand them on.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"

namespace fireq::sm90 {

// Four d of a part and its sum, times what takes it to the maximum of `total`.
__device__ __forceinline__ void AddPart(float4 part, float part_sum, float factor, float4& total,
                                        float& sum) {
  sum += part_sum * factor;
  total.x += part.x * factor;
  total.y += part.y * factor;
  total.z += part.z * factor;
  total.w += part.w * factor;
}

// Sums [2 G][kDecodeMaxRows][Dh], statistics [2 G][kDecodeMaxRows], counters [G]; G CTAs, of which
// each has two slots.
template <int kDim>
struct DecodeWorkspace {
  float* base;

  __device__ float* Sums(int slot) const { return base + int64_t{slot} * (kDecodeMaxRows * kDim); }
  __device__ float2* Stats(int slot) const {
    return reinterpret_cast<float2*>(Sums(2 * static_cast<int>(gridDim.x))) + slot * kDecodeMaxRows;
  }
  __device__ int32_t* Counters() const {
    return reinterpret_cast<int32_t*>(Stats(2 * static_cast<int>(gridDim.x)));
  }

  // Four d of a row over `count` parts, `step` CTAs apart, in order. Only the first of them can lie
  // in its CTA's second slot: the others begin with the CTA.
  __device__ void Add(int row, int d, int first_slot, int count, int step, float4& total,
                      float& sum) const {
    const int stride = 2 * kDecodeMaxRows * step;  // rows from a slot to the next part's
    const float2* stats = Stats(first_slot & ~1) + row;
    const float* sums = Sums(first_slot & ~1) + row * kDim + d;
    int32_t away = (first_slot & 1) * kDecodeMaxRows;
    float top = kNoMaximum;
    constexpr int kBatch = 8;  // parts whose loads are in flight together
    for (int left = count; left > 0; left -= kBatch) {
      float2 stat[kBatch];
      float4 part[kBatch];
      float next = top;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int32_t at = i * stride + (i == 0 ? away : 0);
        stat[i] = make_float2(kNoMaximum, 0.0f);
        part[i] = {};
        if (i < left) stat[i] = __ldcg(stats + at);
        if (i < left) part[i] = __ldcg(reinterpret_cast<const float4*>(sums + at * kDim));
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) next = fmaxf(next, stat[i].x);
      const float factor = Exp2Approx(top - next);
      sum *= factor;
      total = {total.x * factor, total.y * factor, total.z * factor, total.w * factor};
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        AddPart(part[i], stat[i].y, Exp2Approx(stat[i].x - next), total, sum);
      }
      top = next;
      stats += kBatch * stride;
      sums += kBatch * stride * kDim;
      away = 0;
    }
  }
};

}  // namespace fireq::sm90
