// The stream kernel's two producer warps: weights, and tokens' codes with their sums.
#pragma once

#include <cuda.h>

#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/stream_ends.cuh"
#include "fireq/backends/sm90/gemm_i4f8/stream_outputs.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/ring.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

// Whether this thread is the one of its warp that copies: elected, as the compiler can see, or each
// copy is a loop over threads. Beside helpers that makes the consumers' loop longer and loses.
template <class Config>
__device__ __forceinline__ bool CopiesOfWarp(int lane) {
  return Config::kHasHelpers ? lane == 0 : ElectOne();
}

// cp.async of 4 bytes, or of zeros; PTX ISA, "cp.async".
__device__ __forceinline__ void CopyFloatAsync(void* shared, const float* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(valid ? 4 : 0)
               : "memory");
}

// One thread: weights do not depend on the kernel before this one, so the ring fills while that one
// drains. One copy a step: each costs its issuer and the engine some 300 clocks whatever its size.
// What lies past the weight's end arrives as zeros.
template <class Config>
struct StreamWeights {
  const GemmI4F8Params& p;
  StreamShared<Config> shared;
  ClusterRun run;
  int first_tile;  // of the cluster
  RingPlace<Config::kStages> at{0, 1};
  int segment = 0;  // the next one
  int unit = 0, end = 0;
  int block = 0;

  // As much as the ring holds, before the rest of the CTA is there: the barriers that these copies
  // complete on are this thread's to make.
  __device__ void CopyFirst(const CUtensorMap& map) {
    for (int s = 0; s < Config::kStages; ++s) {
      // Two announcers of copies, 32 lanes of cp.async; or the weights' alone.
      MbarrierInit(shared.full(s), Config::kResident ? 1 : 2 + 32);
    }
    FenceMbarrierInit();
    for (int s = 0; s < Config::kStages && More(); ++s) Copy(map);
  }
  __device__ void CopyRest(const CUtensorMap& map) {
    while (More()) {
      MbarrierWait(shared.empty(at.stage), at.parity);
      Copy(map);
    }
  }

 protected:
  __device__ bool More() {
    if (unit < end) return true;
    if (segment == run.count) return false;
    const Segment next = SegmentOf<Config>(p, run, segment++);
    unit = next.begin;
    end = next.end;
    block = SuperBlockOf(p, first_tile + next.tile) * Config::kRowBlocks;
    return true;
  }
  __device__ void Copy(const CUtensorMap& map) {
    MbarrierArriveExpectTx(shared.full(at.stage), Config::kWeightBytes);
    TmaLoad4D(shared.w(at.stage), &map, 0, 0, unit * Config::kGroups, block, shared.full(at.stage),
              kEvictFirst);
    ++unit;
    at.Next();
  }
};

// One warp: tokens' codes by the copy engine, their sums by asynchronous loads of single floats.
// What a step needs is computed once a segment: one warp's instructions are slow, and a step has
// little more than the time of its copies.
template <class Config>
__device__ __forceinline__ void StreamCopyTokens(const GemmI4F8Params& p, const CUtensorMap& map,
                                                 const StreamShared<Config>& shared,
                                                 const ClusterRun& run, int first_tile, int lane) {
  constexpr int kSums = Config::kGroups * Config::kTokens;
  constexpr int kTurns = CeilDiv(kSums, 32);
  RingPlace<Config::kStages> at{0, 1};
  for (int i = 0; i < run.count; ++i) {
    const Segment segment = SegmentOf<Config>(p, run, i);
    const int tile = first_tile + segment.tile;
    const int token = FirstTokenOf<Config>(p, tile);
    int group = segment.begin * Config::kGroups;
    const float* sums = p.x_sums + static_cast<int64_t>(token) * p.groups + group;
    int place[kTurns];
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int item = turn * 32 + lane;
      place[turn] = item % Config::kTokens * p.groups + item / Config::kTokens;
    }
    if (i == 0) GridDependencyWait();
    for (int unit = segment.begin; unit < segment.end; ++unit, at.Next()) {
      const int groups = min(Config::kGroups, p.groups - group);
      MbarrierWait(shared.empty(at.stage), at.parity);
      if (p.x_box_groups == Config::kGroups) {
        if (CopiesOfWarp<Config>(lane)) {
          MbarrierArriveExpectTx(shared.full(at.stage), Config::kXBytes);
          TmaLoad3D(shared.x(at.stage), &map, 0, token, group, shared.full(at.stage), kEvictLast);
        }
      } else {
        // A last group that is short ends inside a row, which a box of whole groups cannot say.
        if (lane == 0) MbarrierArriveExpectTx(shared.full(at.stage), Config::kXBytes);
        __syncwarp();
        if (lane < Config::kGroups)
          TmaLoad3D(shared.x(at.stage) + lane * Config::kXGroupBytes, &map, (group + lane) * kGroup,
                    token, 0, shared.full(at.stage), kEvictLast);
      }
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int item = turn * 32 + lane;
        const bool valid = item / Config::kTokens < groups && token + item % Config::kTokens < p.m;
        if (item < kSums)
          CopyFloatAsync(shared.sums(at.stage) + item, valid ? sums + place[turn] : p.x_sums,
                         valid);
      }
      CopyAsyncArrive(shared.full(at.stage));
      group += Config::kGroups;
      sums += Config::kGroups;
    }
  }
}

}  // namespace fireq::sm90
