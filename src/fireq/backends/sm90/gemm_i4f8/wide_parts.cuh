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
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/ring.cuh"

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
// Word by word: a word is there once it is not zero, without a count or a fence between those who
// write and who reads, which then leaves zeros. They go inverted: no word that numbers are packed
// into has all bits set, as conversions make 0x7FFF of NaN.
__device__ __forceinline__ uint4 Inverted(const uint4& v) { return {~v.x, ~v.y, ~v.z, ~v.w}; }
__device__ __forceinline__ bool HasZero(const uint4& v) {
  return ((v.x == 0) | (v.y == 0) | (v.z == 0) | (v.w == 0)) != 0;
}
// What other clusters have of the chunks that a warpgroup finishes. All of a chunk's parts are
// asked for at once, and again those that had not come; they are added in the order of K.
template <class Config>
struct WideWordParts {
  static constexpr int kMost = kWideMaxParts - 1;
  static constexpr int kLoads = kWideOutTokens / 2 / kPartSums;  // of a thread, a chunk
  const WideWalk<Config>& walk;
  const WideOutput& mine;
  int rank, warpgroup, thread;
  int others;
  uint4 words[kMost][kLoads];

  __device__ WideWordParts(const WideWalk<Config>& w, const WideOutput& output, int r, int group,
                           int t)
      : walk(w), mine(output), rank(r), warpgroup(group), thread(t), others(w.parts() - 1) {
    AskForAll(mine.begin);
  }
  __device__ uint4* At(int chunk, int other) const {
    const int place = other + (other < walk.place() ? 0 : 1);
    return WidePart<Config>(walk.p, walk.cluster - walk.place() + place, rank, warpgroup) +
           chunk * kLoads * 128 + thread;
  }
  __device__ __forceinline__ void Ask(int chunk, int other) {
    const uint4* at = At(chunk, other);
#pragma unroll
    for (int j = 0; j < kLoads; ++j) words[other][j] = LoadRelaxed128(at + j * 128);
  }
  __device__ __forceinline__ void AskForAll(int chunk) {
#pragma unroll
    for (int i = 0; i < kMost; ++i)
      if (i < others) Ask(chunk, i);
  }
  __device__ __forceinline__ bool HasCome(int other) const {
    bool come = true;
#pragma unroll
    for (const uint4& v : words[other]) come = come && !HasZero(v);
    return __all_sync(0xFFFFFFFFu, come);
  }
  __device__ __forceinline__ void AddTo(float (&sums)[kWideOutTokens / 2], int chunk) {
    for (bool wait = true; wait;) {
      wait = false;
#pragma unroll
      for (int i = 0; i < kMost; ++i) {
        if (i >= others || HasCome(i)) continue;
        Ask(chunk, i);
        wait = true;
      }
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= others) break;
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        AddPart(sums + kPartSums * j, Inverted(words[i][j]), walk.p.part_unit);
        StoreRelaxed128(At(chunk, i) + j * 128, {0, 0, 0, 0});
      }
    }
    if (chunk + 1 < mine.end) AskForAll(chunk + 1);
  }
};

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
// What came by the stages from `at` on, each an other cluster's, in the order of K.
template <class Config>
struct WideRingParts {
  static constexpr int kLoads = kWideOutTokens / 2 / kPartSums;  // of a thread, a chunk
  const WideWalk<Config>& walk;
  const WideShared<Config>& shared;
  RingPlace<Config::kStages> at;
  int others;
  int begin;
  uint32_t from;  // of stage 0

  __device__ WideRingParts(const WideWalk<Config>& w, const WideShared<Config>& s,
                           const WideOutput& mine, const RingPlace<Config::kStages>& first,
                           int warpgroup, int thread)
      : walk(w),
        shared(s),
        at(first),
        others(w.parts() - 1),
        begin(mine.begin),
        from(WidePartOfStage<Config>(s, mine, 0, warpgroup) + thread * 16) {}
  __device__ __forceinline__ void AddTo(float (&sums)[kWideOutTokens / 2], int chunk) const {
    RingPlace<Config::kStages> place = at;
#pragma unroll 1
    for (int i = 0; i < others; ++i, place.Next()) {
      MbarrierWait(shared.x_full(place.stage), place.parity);
      const uint32_t part =
          from + place.stage * Config::kXBytes + (chunk - begin) * kWidePartChunkBytes;
#pragma unroll
      for (int j = 0; j < kLoads; ++j)
        AddPart(sums + kPartSums * j, LoadShared128(part + j * (128 * 16)), walk.p.part_unit);
    }
  }
};
// A tile that is dealt: whether this CTA's part is there.
template <class Config>
__device__ __forceinline__ uint32_t* WidePartIsThere(const GemmI4F8Params& p, int cluster,
                                                     int rank) {
  return p.counts + cluster * Config::kClusterCtas + rank;
}

}  // namespace fireq::sm90
