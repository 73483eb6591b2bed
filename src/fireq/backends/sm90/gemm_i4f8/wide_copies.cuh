// The wide kernel's last four warps, which keep copies going: tokens, weights, token scales,
// outputs.
#pragma once

#include <cuda.h>

#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_parts.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_shared.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_walk.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/ring.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

// Parts of the tile that this CTA finishes last, behind its tokens and by their stages.
template <class Config>
__device__ __forceinline__ void WideCopyParts(const WideWalk<Config>& walk,
                                              const WideShared<Config>& shared, int rank,
                                              RingPlace<Config::kStages>& at) {
  const auto part = [&](int cluster, int w) {
    return reinterpret_cast<const uint8_t*>(WidePart<Config>(walk.p, cluster, rank, w));
  };
  if constexpr (Config::kDeals) {
    // A warpgroup's sums by a stage each: those that were there in time have come when products
    // end. The flag ends as it was found; who sets it next waits for this kernel's end.
    walk.ForParts([&](int cluster) {
      uint32_t* there = WidePartIsThere<Config>(walk.p, cluster, rank);
      while (LoadAcquire(there) == 0) {
      }
      *there = 0;
      FenceProxyAsyncGlobal();
#pragma unroll
      for (int w = 0; w < Config::kWarpgroups; ++w, at.Next()) {
        MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
        MbarrierArriveExpectTx(shared.x_full(at.stage), Config::kPartBytes);
        BulkLoad(shared.x(at.stage), part(cluster, w), Config::kPartBytes, shared.x_full(at.stage),
                 kEvictFirst);
      }
    });
  } else {
    if (walk.count == walk.whole) return;
    const WideOutput mine = walk.OutputAt(walk.whole);
    if (mine.begin == mine.end) return;
    const uint32_t all = walk.parts() * Config::kWarpgroups;
    uint32_t* there = WidePartsThere<Config>(walk, rank);
    while (LoadAcquire(there) < all) {
    }
    AddWrapping(there, all + min(walk.parts(), Config::kChunks) - 1);
    FenceProxyAsyncGlobal();
    const uint32_t bytes = (mine.end - mine.begin) * kWidePartChunkBytes;
    const int first = walk.cluster - walk.place();
    for (int c = first; c < first + walk.parts(); ++c) {
      if (c == walk.cluster) continue;
      MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.x_full(at.stage), Config::kWarpgroups * bytes);
#pragma unroll
      for (int w = 0; w < Config::kWarpgroups; ++w)
        BulkLoad(shared.x(at.stage) + w * bytes, part(c, w) + mine.begin * kWidePartChunkBytes,
                 bytes, shared.x_full(at.stage), kEvictFirst);
      at.Next();
    }
  }
}

// One thread: tokens; of a pair's, this CTA's half, to both CTAs. Of the last tile there are as
// many as there are: what is in shared memory behind them makes sums that are never stored, of
// tokens that do not exist. `first`: the walk's first tile.
template <class Config>
__device__ __forceinline__ void WideCopyTokens(const WideWalk<Config>& walk, const WideWork& first,
                                               const GemmMaps& maps,
                                               const WideShared<Config>& shared, int rank) {
  constexpr int kOwn = Config::kTokens / Config::kClusterCtas;
  const int m = walk.p.m;
  RingPlace<Config::kStages> at{0, 1};
  const auto copy = [&](const WideWork& work) {
    const int tile_token = work.tile.token_tile * Config::kTokens;
    const uint32_t bytes = min(m - tile_token, Config::kTokens) * (Config::kGroups * kGroup);
    const int token = tile_token + rank * kOwn;
    const CUtensorMap* map = token + kOwn <= m ? &maps.tokens : &maps.last_tokens;
    for (int s = work.begin; s < work.end; ++s, at.Next()) {
      MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.x_full(at.stage), bytes);
      if (Config::kClusterCtas > 1 && token >= m) continue;
#pragma unroll
      for (int g = 0; g < Config::kGroups; ++g) {
        uint8_t* to = shared.x(at.stage) + g * Config::kXGroupBytes + rank * kOwn * kGroup;
        const int column = (s * Config::kGroups + g) * kGroup;
        if constexpr (Config::kClusterCtas > 1) {
          TmaLoad2DMulticast(to, map, column, token, shared.x_full(at.stage),
                             (1 << Config::kClusterCtas) - 1, kEvictLast);
        } else {
          TmaLoad2D(to, map, column, token, shared.x_full(at.stage), kEvictLast);
        }
      }
    }
  };
  if (m % kOwn != 0) PrefetchTensorMap(&maps.last_tokens);
  GridDependencyWait();
  copy(first);
  for (int t = 1; t < walk.count; ++t) copy(walk.At(t));
  if constexpr (Config::kDeals || (Config::kCuts && !Config::kPartsByWord))
    WideCopyParts<Config>(walk, shared, rank, at);
  // The last arrivals of the other CTA's consumers land while this CTA is still there: one that
  // came later would count on a barrier of whatever runs here next. By then the other CTA has these
  // copies, too, and nothing else passes between the two: they need not meet at their end.
  if constexpr (Config::kClusterCtas > 1)
    for (int s = 0; s < Config::kStages; ++s, at.Next())
      MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
}

// One thread: this CTA's weights. Rows and groups past the weight's end arrive as zeros. Consumers
// read a step ahead, and so one beyond the last.
inline constexpr int kWideReadAhead = 1;
// Steps asked for before the CTA's warps, and the cluster's CTAs, have met: with all of the ring's,
// weights of CTAs that start late would queue behind those of all others.
inline constexpr int kWideEarlySteps = 2;

template <class Config>
struct WideWeights {
  const WideWalk<Config>& walk;
  const WideShared<Config>& shared;
  int rank;
  RingPlace<Config::kStages> at{0, 1};
  int next = 1;  // tile
  int step, end;
  int block;

  __device__ WideWeights(const WideWalk<Config>& w, const WideWork& first,
                         const WideShared<Config>& s, int cluster_rank)
      : walk(w), shared(s), rank(cluster_rank) {
    Take(first);
  }
  // The barriers that these copies complete on are this warp's: it has made them.
  __device__ void CopyFirst(const CUtensorMap& map) {
    static_assert(kWideEarlySteps <= kWidePartSteps);
#pragma unroll
    for (int s = 0; s < kWideEarlySteps; ++s) Copy(map);
  }
  __device__ void CopyRest(const CUtensorMap& map) {
    while (More()) {
      MbarrierWaitAsleep(shared.w_empty(at.stage), at.parity);
      Copy(map);
    }
  }

 private:
  __device__ void Take(const WideWork& work) {
    block = Config::FirstBlock(work.tile.row_pair, rank);
    step = work.begin;
    end = work.end;
  }
  __device__ bool More() {
    if (step < end) return true;
    if (next > walk.count) return false;
    const bool beyond = next == walk.count;
    Take(walk.At(beyond ? next - 1 : next));
    if (beyond) end = step + kWideReadAhead;
    ++next;
    return true;
  }
  __device__ void Copy(const CUtensorMap& map) {
    MbarrierArriveExpectTx(shared.w_full(at.stage), Config::kWBytes);
    TmaLoad4D(shared.w(at.stage), &map, 0, 0, step * Config::kGroups, block,
              shared.w_full(at.stage), kEvictLast);
    ++step;
    at.Next();
  }
};

// One warp: the token scales of each output.
template <class Config>
__device__ __forceinline__ void WideCopyScales(const GemmI4F8Params& p,
                                               const WideWalk<Config>& walk,
                                               const WideShared<Config>& shared, int lane) {
  constexpr int kTurns = Config::kTokens / 32;
  GridDependencyWait();
  uint32_t parity = 1;
  for (int t = 0; t < walk.count; ++t) {
    const WideOutput output = walk.OutputAt(t);
    if (output.begin == output.end) continue;
    const int token = output.tile.token_tile * Config::kTokens + lane;
    float scale[kTurns];
#pragma unroll
    for (int i = 0; i < kTurns; ++i)
      scale[i] = token + 32 * i < p.m ? __ldg(p.x_scales + token + 32 * i) : 0.0f;
    MbarrierWaitAsleep(shared.scales_empty(), parity);
#pragma unroll
    for (int i = 0; i < kTurns; ++i) shared.scales()[32 * i + lane] = scale[i];
    MbarrierArrive(shared.scales_full());
    parity ^= 1;
  }
}

// One thread, when its copies have been issued: this CTA's outputs of a tile are there, for whoever
// acquires the count. Those of the last token tile are waited for as the kernel's end.
__device__ __forceinline__ void WideAnnounce(const GemmI4F8Params& p, const WideTile& tile) {
  if (p.ready == nullptr || tile.token_tile + 1 == p.order.token_tiles) return;
  BulkGroupsWait();
  FenceProxyAsyncGlobal();
  AddRelease(p.ready + tile.token_tile, 1);
}

// One thread: sums that this CTA hands over, as soon as they are in its warpgroups' buffers.
template <class Config>
__device__ __forceinline__ void WideCopyPartOut(const WideWalk<Config>& walk,
                                                const WideShared<Config>& shared, int rank,
                                                uint32_t parity) {
  constexpr int kHalf = Config::kPartBytes / 2;
  for (int w = 0; w < Config::kWarpgroups; ++w) MbarrierArrive(shared.out_ready(w));
  for (int half = 0; half < 2; ++half) {
    for (int w = 0; w < Config::kWarpgroups; ++w) {
      MbarrierWaitAsleep(shared.out_full(half, w), parity);
      BulkStore(WidePart<Config>(walk.p, walk.cluster, rank, w) + half * (kHalf / 16),
                shared.out(w) + half * kHalf, kHalf);
    }
    BulkGroupCommit();
  }
  BulkGroupsWait();
  FenceProxyAsyncGlobal();
  AddRelease(WidePartIsThere<Config>(walk.p, walk.cluster, rank), 1);
}

// One thread: residuals to shared memory, outputs from there.
template <class Config, class Epilogue>
__device__ __forceinline__ void WideCopyOutputs(const WideWalk<Config>& walk, const GemmMaps& maps,
                                                const WideShared<Config>& shared, int rank) {
  constexpr int kChunkBytes = kWideChunkBytes<Epilogue>;
  PrefetchTensorMap(&maps.outputs);
  if constexpr (kAddsResidual<Epilogue>) PrefetchTensorMap(&maps.residual);
  GridDependencyWait();
  uint32_t parity = 0;
  for (int t = 0; t < walk.count; ++t) {
    if constexpr (Config::kDeals) {
      if (walk.HandsOver(t)) {
        WideCopyPartOut<Config>(walk, shared, rank, parity);
        parity ^= 1;
        continue;
      }
    }
    const WideOutput output = walk.OutputAt(t);
    if (output.begin == output.end) continue;
    const int block = Config::FirstBlock(output.tile.row_pair, rank);
    const int tile_token = output.tile.token_tile * Config::kTokens;
    for (int w = 0; w < Config::kWarpgroups; ++w) {
      const WideOutput mine = output.Of<Config>(w);
      const int row = (block + Config::RowBlock(w, rank)) * kWideOutRows<Epilogue>;
      const int token = tile_token + Config::FirstToken(w, rank);
      if constexpr (kAddsResidual<Epilogue>) {
        if constexpr (Config::kOneTile) MbarrierWaitAsleep(shared.tokens_read(), 0);
        // Chunks that have tokens: copies are slow where they make rows of zeros.
        const int end = min(mine.end, CeilDiv(walk.p.m - token, kWideOutTokens));
        MbarrierArriveExpectTx(shared.out_ready(w), max(end - mine.begin, 0) * kChunkBytes);
        for (int c = mine.begin; c < end; ++c)
          TmaLoad2D(shared.out(w) + c * kChunkBytes, &maps.residual, row,
                    token + c * kWideOutTokens, shared.out_ready(w), kEvictFirst);
      } else {
        MbarrierArrive(shared.out_ready(w));
      }
    }
    // In halves: the first leaves while the second is scaled.
    for (int half = 0; half < 2; ++half) {
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        const WideOutput mine = output.Of<Config>(w);
        const int begin = half == 0 ? mine.begin : mine.middle();
        const int end = half == 0 ? mine.middle() : mine.end;
        const int row = (block + Config::RowBlock(w, rank)) * kWideOutRows<Epilogue>;
        const int token = tile_token + Config::FirstToken(w, rank);
        MbarrierWaitAsleep(shared.out_full(half, w), parity);
        for (int c = begin; c < end; ++c)
          TmaStore2D(&maps.outputs, row, token + c * kWideOutTokens,
                     shared.out(w) + c * kChunkBytes);
        BulkGroupCommit();
      }
    }
    BulkGroupsWaitRead();
    WideAnnounce(walk.p, output.tile);
    parity ^= 1;
  }
}

}  // namespace fireq::sm90
