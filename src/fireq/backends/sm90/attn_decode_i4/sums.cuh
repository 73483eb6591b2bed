// Where a segment ends: what the warps of a CTA have of it, added through shared memory, and stored
// or, where other CTAs have parts of it, too, handed on through the workspace.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/parts.cuh"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

// `sums` and `stats` as AttnDecodeShared has them, one buffer or two. What is done by `kThreads`
// threads is one warp's or all computing warps'.
template <int kDim, int kTiles, class Probs>
class DecodeCtaSums {
 public:
  using Warp = DecodeWarp<kDim, kTiles, Probs>;
  static constexpr int kRows = 8 * kTiles;
  static constexpr int kWarps = DecodeWarps(kRows);
  static constexpr int kComputeThreads = kWarps * 32;

  __device__ DecodeCtaSums(const AttnDecodeParams& p, float* sums, float2* stats)
      : p_(p), workspace_{p.workspace}, sums_(sums), stats_(stats) {}

  const DecodeWorkspace<kDim>& workspace() const { return workspace_; }
  static __device__ void ComputeBarrier() { NamedBarrierSync(kComputeBarrier, kComputeThreads); }

  // This warp's maxima and sums of probabilities.
  __device__ __forceinline__ void WriteStats(const Warp& tile, int buffer) {
    const int warp = buffer * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x & 31;
    const int c = lane & 3;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = tile.sum[n][i];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 4);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
        if (lane < 4) {
          stats_[warp * kDecodeMaxRows + 8 * n + 2 * c + i] = make_float2(tile.maximum[n][i], sum);
        }
      }
    }
  }

  // This warp's O^T of tile n, relative to its own maximum.
  __device__ void WriteSums(int n, const Warp& tile, int buffer) {
    const int warp = buffer * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x & 31;
    const int r = lane >> 2;
    const int c = lane & 3;
    const float factor = tile.r * (kCodeUnit / 256.0f);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float zero = __shfl_sync(0xFFFFFFFFu, tile.zeros[n][i], c);
      float* row = sums_ + (warp * 8 + 2 * c + i) * kSumStride;
#pragma unroll
      for (int j = 0; j < Warp::kSteps; ++j) {
        row[16 * j + r] = (tile.out[n][j][i] - zero) * factor;
        row[16 * j + r + 8] = (tile.out[n][j][2 + i] - zero) * factor;
      }
    }
  }

  // Of a row: four d, and the row's maximum and sum.
  struct Part {
    float4 total = {};
    float top = kNoMaximum;
    float sum = 0.0f;
  };

  // Of tile n, four d of one row an item, over the warps in order: to(row, d, index [T, H], part)
  // for rows that index_of(row) does not call -1.
  template <int kThreads, class IndexOf, class To>
  __device__ __forceinline__ void AddWarps(int n, int buffer, const IndexOf& index_of,
                                           const To& to) {
    for (int item = ThreadOf<kThreads>(); item < 8 * (kDim / 4); item += kThreads) {
      const int row = 8 * n + item / (kDim / 4);
      const int d = item % (kDim / 4) * 4;
      const int64_t index = index_of(row);
      if (index < 0) continue;
      float2 stat[kWarps];
      Part part;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        stat[w] = stats_[(buffer * kWarps + w) * kDecodeMaxRows + row];
        part.top = fmaxf(part.top, stat[w].x);
      }
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float* from =
            sums_ + ((buffer * kWarps + w) * 8 + item / (kDim / 4)) * kSumStride + d;
        AddPart(*reinterpret_cast<const float4*>(from), stat[w].y, Exp2Approx(stat[w].x - part.top),
                part.total, part.sum);
      }
      to(row, d, index, part);
    }
  }

  // The whole of a segment.
  __device__ void Store(int64_t index, int d, float4 total, float sum) {
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;  // no key at all gives zero
    uint2 packed;
    packed.x = FloatsToBf16x2(total.x * inverse, total.y * inverse);
    packed.y = FloatsToBf16x2(total.z * inverse, total.w * inverse);
    *reinterpret_cast<uint2*>(p_.out + index * kDim + d) = packed;
  }
  // This CTA's part of one.
  __device__ __forceinline__ void HandOn(int slot, int row, int d, const Part& part) {
    *reinterpret_cast<float4*>(workspace_.Sums(slot) + row * kDim + d) = part.total;
    if (d == 0) workspace_.Stats(slot)[row] = make_float2(part.top, part.sum);
  }

  // After this CTA's part is in the workspace: the last of `count` CTAs adds all parts, every
  // `step` CTAs from `first` on, whose is in `first_slot`. `flag`, in shared memory, is of this
  // segment alone.
  template <int kThreads, class IndexOf>
  __device__ void Combine(const IndexOf& index_of, int first, int first_slot, int count, int step,
                          int32_t* flag) {
    if (!IsLast<kThreads>(workspace_.Counters() + first, count, flag)) return;
    for (int item = ThreadOf<kThreads>(); item < kRows * (kDim / 4); item += kThreads) {
      const int row = item / (kDim / 4);
      const int64_t index = index_of(row);
      const int d = item % (kDim / 4) * 4;
      if (index < 0) continue;
      float4 total = {};
      float sum = 0.0f;
      workspace_.Add(row, d, first_slot, count, step, total, sum);
      Store(index, d, total, sum);
    }
  }

 private:
  static constexpr uint32_t kComputeBarrier = 1;
  static constexpr int kSumStride = kDim + kDecodePadding;

  template <int kThreads>
  static __device__ __forceinline__ int ThreadOf() {
    return static_cast<int>(kThreads == 32 ? threadIdx.x & 31 : threadIdx.x);
  }

  // Whether the last of `count` arrives now, for all threads alike.
  template <int kThreads>
  __device__ __forceinline__ bool IsLast(int32_t* arrived, int32_t count, int32_t* flag) {
    const auto arrive = [&] {
      const bool last = AtomicAddAcqRel(arrived, 1) == count - 1;
      if (last) *arrived = 0;  // ready for the next launch
      return last;
    };
    if constexpr (kThreads == 32) {
      __syncwarp();  // every lane has written its part
      const bool last = __any_sync(0xFFFFFFFFu, ThreadOf<32>() == 0 && arrive());
      __syncwarp();  // what lane 0 has acquired is all lanes'
      return last;
    } else {
      ComputeBarrier();  // every thread has written its part
      if (threadIdx.x == 0) *flag = arrive();
      ComputeBarrier();
      return *flag != 0;
    }
  }

  const AttnDecodeParams& p_;
  const DecodeWorkspace<kDim> workspace_;
  float* sums_;
  float2* stats_;
};

}  // namespace fireq::sm90
