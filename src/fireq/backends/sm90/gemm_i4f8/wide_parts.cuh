// Sums of parts of the wide kernel's tiles on their way from a cluster to another, through the
// workspace: FP16 in units of p.part_unit, as half of the bytes is half of the time (NOTES.md), in
// the order of a warpgroup's registers, eight of each thread in turn.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_shared.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_walk.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"

namespace fireq::sm90 {

inline constexpr int kPartSums = 8;  // of a thread, 16 bytes of them

__device__ __forceinline__ uint4 PackPart(const float* sums, float parts_a_unit) {
  uint32_t v[kPartSums / 2];
#pragma unroll
  for (int i = 0; i < kPartSums / 2; ++i)
    v[i] = FloatsToHalf2(sums[2 * i] * parts_a_unit, sums[2 * i + 1] * parts_a_unit);
  return {v[0], v[1], v[2], v[3]};
}
__device__ __forceinline__ void AddPart(float* sums, const uint4& part, float unit) {
  const uint32_t v[kPartSums / 2] = {part.x, part.y, part.z, part.w};
#pragma unroll
  for (int i = 0; i < kPartSums / 2; ++i) {
    const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&v[i]));
    sums[2 * i] = fmaf(two.x, unit, sums[2 * i]);
    sums[2 * i + 1] = fmaf(two.y, unit, sums[2 * i + 1]);
  }
}

// Where a warpgroup of CTA `rank` of a cluster leaves its part.
template <class Config>
__device__ __forceinline__ uint4* WidePart(const GemmI4F8Params& p, int cluster, int rank,
                                           int warpgroup) {
  const int index = (cluster * Config::kClusterCtas + rank) * Config::kWarpgroups + warpgroup;
  return p.partials + int64_t{index} * (Config::kPartBytes / 16);
}
// A tile that is cut: how many warpgroups have left theirs, on CTAs of this rank. The CTAs that
// wait for all of them make it wrap: it ends as it was found, at zero.
template <class Config>
__device__ __forceinline__ uint32_t* WidePartsThere(const WideWalk<Config>& walk, int rank) {
  return walk.p.counts + walk.cut_tile() * Config::kClusterCtas + rank;
}
// Of a cut tile's part a stage brings the chunks that this CTA finishes, one warpgroup's behind the
// other's.
inline constexpr int kWidePartChunkBytes = kWideOutTokens * kTileRows * 2;
template <class Config>
__device__ __forceinline__ uint32_t WidePartOfStage(const WideShared<Config>& shared,
                                                    const WideOutput& mine, int stage,
                                                    int warpgroup) {
  return SharedAddress(shared.x(stage)) +
         warpgroup * ((mine.end - mine.begin) * kWidePartChunkBytes);
}
// A tile that is dealt: whether this CTA's part is there.
template <class Config>
__device__ __forceinline__ uint32_t* WidePartIsThere(const GemmI4F8Params& p, int cluster,
                                                     int rank) {
  return p.counts + cluster * Config::kClusterCtas + rank;
}

}  // namespace fireq::sm90
