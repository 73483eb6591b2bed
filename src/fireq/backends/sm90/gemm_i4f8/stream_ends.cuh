// The stream kernel where helpers have the ends of the parts of K (EndsSchedule): what they hand
// over, and what becomes of it.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

// Of a CTA's run, the i-th segment in the order of execution.
template <class Config>
__device__ __forceinline__ Segment SegmentOf(const GemmI4F8Params& p, const ClusterRun& run,
                                             int i) {
  if constexpr (Config::kHasHelpers) {
    if (p.end_units > 0) return EndsSchedule::At(run, i, p.ranks);
  }
  return run.At(i);
}

// Sums of the end of a part, from its helper to its owner through the L2, in the order of
// registers. They are there once the part's count is not 0.
template <class Config>
struct EndOfPart {
  static constexpr int kThreads = Config::kConsumerThreads;
  static constexpr int kVectors = Config::kTokens / 8;  // of a thread
  static constexpr int kSums = 4 * kVectors;
  static_assert(kVectors * kThreads * 4 == Config::kTokens * Config::kRowBlocks * kTileRows,
                "no two warpgroups share a row block");
  float4* sums;
  uint32_t* count;

  __device__ EndOfPart(const GemmI4F8Params& p, int part)
      : sums(reinterpret_cast<float4*>(p.partials) + int64_t{part} * (kVectors * kThreads) +
             threadIdx.x),
        count(p.counts + part) {}

  // All consumers.
  __device__ void HandOver(const float (&total)[kSums]) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      sums[i * kThreads] = {total[4 * i], total[4 * i + 1], total[4 * i + 2], total[4 * i + 3]};
    NamedBarrierSync(1, kThreads);  // the release is of what others wrote, too
    if (threadIdx.x == 0) AddRelease(count, 1);
  }
  // The count ends as it was found, at zero: the last warp to add makes it wrap.
  __device__ void AddTo(float (&total)[kSums]) const {
    const bool first_lane = threadIdx.x % 32 == 0;
    if (first_lane) {
      while (LoadAcquire(count) == 0) {
      }
    }
    __syncwarp();
    float4 end[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) end[i] = __ldcg(sums + i * kThreads);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      total[4 * i] += end[i].x;
      total[4 * i + 1] += end[i].y;
      total[4 * i + 2] += end[i].z;
      total[4 * i + 3] += end[i].w;
    }
    if (first_lane) AddWrapping(count, kThreads / 32);
  }
};

}  // namespace fireq::sm90
