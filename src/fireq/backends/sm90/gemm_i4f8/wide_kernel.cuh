// The GEMM where the tensor cores bind (*table*): operands E4M3((q - z) s) made in registers by
// FP16 arithmetic, one set of accumulators over all of K.
//
// Persistent clusters of two CTAs that share their tokens: each copies one half of the token tile
// to both. In a CTA, two warps of the last warpgroup keep two rings of copies going (tokens,
// weights), and the consumer warpgroups convert the next group's codes while the tensor cores
// multiply the last one's. Steps run on from tile to tile: the next tile's first operands are made
// under the last one's products. Runs of tiles follow WideTileAt.
#pragma once

#include <cuda.h>
#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/operand.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/ring.cuh"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_epilogue.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <class Config>
struct WideShared {
  uint8_t* base;
  __device__ uint8_t* x(int stage) const { return base + stage * Config::kXBytes; }
  __device__ uint8_t* w(int stage) const {
    return base + Config::kWOffset + stage * Config::kWBytes;
  }
  __device__ uint8_t* of_warpgroup(int warpgroup) const {
    return base + Config::kWarpgroupOffset + warpgroup * Config::kWarpgroupBytes;
  }
  __device__ Mbarrier* x_full(int stage) const {
    return reinterpret_cast<Mbarrier*>(base + Config::kBarrierOffset) + stage;
  }
  __device__ Mbarrier* x_empty(int stage) const { return x_full(stage) + Config::kStages; }
  __device__ Mbarrier* w_full(int stage) const { return x_full(stage) + 2 * Config::kStages; }
  // One place on: the weights of a step are released together with the tokens of the step before,
  // by arrivals at the same offset.
  __device__ Mbarrier* w_empty(int stage) const {
    return x_full(3 * Config::kStages) + (stage + Config::kStages - 1) % Config::kStages;
  }
  __device__ Mbarrier* part_full(int warpgroup) const {
    return x_full(4 * Config::kStages) + warpgroup;
  }
};

// What a cluster works on: tiles, or parts of tiles along K. Units are pairs of groups, one for
// each of the two sets of operand registers (a group past K is zeros).
template <class Config>
struct WideWork {
  WideTile tile;
  Segment part;  // its units; `part.tile` among the tiles that are cut
};

template <class Config>
struct WideWalk {
  int row_pairs, token_tiles, cluster, clusters, whole_tiles, whole, count;
  ClusterSchedule cut;
  __device__ explicit WideWalk(const GemmI4F8Params& p)
      : row_pairs(CeilDiv(p.super_blocks, Config::kClusterCtas)),
        token_tiles(CeilDiv(p.m, Config::kTokens)),
        cluster(blockIdx.x / Config::kClusterCtas),
        clusters(gridDim.x / Config::kClusterCtas),
        whole_tiles(p.whole_tiles),
        whole((p.whole_tiles - cluster + clusters - 1) / clusters),
        cut{p.tiles - p.whole_tiles, p.units, clusters, true} {
    count = whole + cut.NumSegments(cluster);
  }
  __device__ WideWork<Config> At(int i) const {
    if (i < whole)
      return {WideTileAt(cluster + i * clusters, row_pairs, token_tiles), {0, 0, cut.units}};
    const Segment part = cut.At(cluster, i - whole);
    return {WideTileAt(whole_tiles + part.tile, row_pairs, token_tiles), part};
  }
};

// One thread: this CTA's half of the cluster's tokens, to both CTAs.
template <class Config>
__device__ __forceinline__ void WideCopyTokens(const GemmI4F8Params& p, const CUtensorMap& x_map,
                                               const WideShared<Config>& shared, int rank) {
  constexpr int kHalf = Config::kTokens / Config::kClusterCtas;
  const WideWalk<Config> walk(p);
  RingPlace<Config::kStages> at{0, 1};
  GridDependencyWait();
  for (int t = 0; t < walk.count; ++t) {
    const WideWork<Config> work = walk.At(t);
    const int token = work.tile.token_tile * Config::kTokens + rank * kHalf;
    for (int g = 2 * work.part.begin; g < 2 * work.part.end; ++g, at.Next()) {
      MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.x_full(at.stage), Config::kXBytes);
      TmaLoad2DMulticast(shared.x(at.stage) + rank * kHalf * kGroup, &x_map, g * kGroup, token,
                         shared.x_full(at.stage), (1 << Config::kClusterCtas) - 1, kEvictLast);
    }
  }
  // The last arrivals of the other CTA's consumers land while this CTA is still there: one that
  // came later would count on a barrier of whatever runs here next.
  for (int s = 0; s < Config::kStages; ++s, at.Next())
    MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
}

// One thread: this CTA's weights. Rows and groups past the weight's end arrive as zeros. Consumers
// read a step ahead, and so one beyond the last.
inline constexpr int kWideReadAhead = 1;

template <class Config>
__device__ __forceinline__ void WideCopyWeights(const GemmI4F8Params& p, const CUtensorMap& w_map,
                                                const WideShared<Config>& shared, int rank) {
  const WideWalk<Config> walk(p);
  RingPlace<Config::kStages> at{0, 1};
  for (int t = 0; t <= walk.count; ++t) {
    const bool beyond = t == walk.count;
    const WideWork<Config> work = walk.At(beyond ? t - 1 : t);
    const int block = work.tile.row_pair * Config::kClusterCtas + rank;
    const int begin = 2 * work.part.begin;
    const int end = beyond ? begin + kWideReadAhead : 2 * work.part.end;
    for (int g = begin; g < end; ++g, at.Next()) {
      MbarrierWaitAsleep(shared.w_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.w_full(at.stage), Config::kWBytes);
      TmaLoad4D(shared.w(at.stage), &w_map, 0, 0, g, block * Config::kWarpgroups,
                shared.w_full(at.stage), kEvictLast);
    }
  }
}

template <class Config, class Epilogue>
struct WideConsumer {
  static constexpr int kTokens = Config::kTokens;
  const GemmI4F8Params& p;
  WideShared<Config> shared;
  int warpgroup;
  int thread;              // of the warpgroup
  uint32_t codes_address;  // of this thread's codes in stage 0
  uint32_t scales_address;
  uint32_t empty_address;  // of what this lane releases
  bool releases;
  int previous;  // stage of the products in flight
  int stage;     // of the operands at hand
  int next;      // of the operands to make
  uint32_t x_parity, w_parity;
  bool x_ready, w_ready;  // what a first look at the barriers said

  __device__ WideConsumer(const GemmI4F8Params& params, WideShared<Config> s)
      : p(params), shared(s), warpgroup(threadIdx.x / 128), thread(threadIdx.x % 128) {
    const int warp = thread / 32, lane = thread % 32;
    const uint8_t* tile = shared.w(0) + warpgroup * kTileBytes;
    codes_address = SharedAddress(tile + thread * 16);
    scales_address = SharedAddress(tile + kTileCodeBytes + 4 * (8 * warp + lane / 4));
    // Tokens are free in both CTAs once both CTAs' consumers have said so: they came from both.
    const bool tokens = lane < Config::kClusterCtas;
    releases = lane <= Config::kClusterCtas;
    empty_address = ClusterAddress(shared.x_empty(tokens ? 0 : 2 * Config::kStages),
                                   tokens ? lane : ClusterRank());
    // Addresses worked out afresh at every step would be a tenth of its instructions.
    asm volatile("" : "+r"(codes_address), "+r"(scales_address), "+r"(empty_address));
    previous = stage = next = 0;
    x_parity = w_parity = 0;
    x_ready = w_ready = false;
  }

  struct Raw {
    CodeWords codes;
    uint32_t scale_zeros;
  };
  __device__ Raw LoadRaw() const {
    if (!w_ready) MbarrierWait(shared.w_full(next), w_parity);
    const uint32_t codes = codes_address + next * Config::kWBytes;
    const uint4 a = LoadShared128(codes), b = LoadShared128(codes + kTileCodeBytes / 2);
    return {{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}},
            LoadShared32(scales_address + next * Config::kWBytes)};
  }
  // The next step's operands. Meanwhile the barriers of the steps after are looked at: the answers
  // are here when the operands are.
  __device__ void Convert(const Raw& raw, uint32_t (&a)[16]) {
    previous = stage;
    stage = next;
    if (++next == Config::kStages) {
      next = 0;
      w_parity ^= 1;
    }
    w_ready = MbarrierTestWait(shared.w_full(next), w_parity);
    x_ready = MbarrierTestWait(shared.x_full(stage), x_parity);
    TableOperands(raw.codes, MakeHalfScales(raw.scale_zeros), a);
    PinRegisters(a);
  }
  // The tokens of the step before this one, whose products have retired, and this step's weights.
  __device__ void Release(int last) const {
    if (releases) MbarrierArriveCluster(empty_address + last * 8);
  }

  // Starts the products of `now` and makes `next` while they run. `next` was the operand of the
  // products before: it may be written once these have retired. Codes are read only now: read
  // earlier, the compiler would convert them between the products.
  __device__ void Step(float (&acc)[kTokens / 2], uint32_t (&now)[16], uint32_t (&then)[16],
                       bool first) {
    if (!x_ready) MbarrierWait(shared.x_full(stage), x_parity);
    if (stage == Config::kStages - 1) x_parity ^= 1;
    WgmmaFence();
    MultiplyGroup<kTokens>(acc, now, DescriptorSwizzle128(shared.x(stage)), !first);
    WgmmaCommit();
    const Raw raw = LoadRaw();
    WgmmaWait<1>();
    if (!first) Release(previous);
    Convert(raw, then);
  }

  // Sums of a part of a tile, in the order of registers: place of cluster `c`, this CTA, this
  // warpgroup.
  __device__ int PartialIndex(int c, int rank) const {
    return (c * Config::kClusterCtas + rank) * Config::kWarpgroups + warpgroup;
  }
  __device__ float4* Partial(int index) const {
    return reinterpret_cast<float4*>(p.partials) + int64_t{index} * (kTokens / 8 * 128) + thread;
  }
  __device__ void HandOver(const float (&acc)[kTokens / 2], int index) const {
    float4* to = Partial(index);
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i)
      to[i * 128] = {acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]};
    __threadfence();
    NamedBarrierSync(1 + warpgroup, 128);
    if (thread == 0) StoreRelease(p.flags + index, 1);
  }
  // The parts further along K, one after another: the same sum on every run. Their CTAs began with
  // them, so they are there. This is the CTA's last tile, and its ring of tokens takes them once
  // all warpgroups are through. Flags are left as they were found.
  __device__ void AddParts(float (&acc)[kTokens / 2], int first, int last, int rank) const {
    constexpr int kBytes = kTileRows * kTokens * 4;
    uint8_t* buffer = shared.x(0) + warpgroup * kBytes;
    NamedBarrierSync(Config::kWarpgroups + 1, Config::kConsumerThreads);
    for (int c = first; c <= last; ++c) {
      const int index = PartialIndex(c, rank);
      if (thread == 0) {
        while (LoadAcquire(p.flags + index) == 0) {
        }
        FenceProxyAsyncAll();
        MbarrierArriveExpectTx(shared.part_full(warpgroup), kBytes);
        BulkLoad(buffer, Partial(index), kBytes, shared.part_full(warpgroup), kEvictFirst);
      }
      MbarrierWaitAsleep(shared.part_full(warpgroup), (c - first) % 2);
#pragma unroll
      for (int i = 0; i < kTokens / 8; ++i) {
        const float4 v = reinterpret_cast<const float4*>(buffer)[i * 128 + thread];
        acc[4 * i] += v.x;
        acc[4 * i + 1] += v.y;
        acc[4 * i + 2] += v.z;
        acc[4 * i + 3] += v.w;
      }
      NamedBarrierSync(1 + warpgroup, 128);
      if (thread == 0) StoreRelease(p.flags + index, 0);
    }
  }

  __device__ void Run(int rank) {
    const WideWalk<Config> walk(p);
    uint32_t even[16], odd[16];
    Convert(LoadRaw(), even);
    // The first weights; no tokens go with them.
    if (thread % 32 == Config::kClusterCtas)
      MbarrierArriveCluster(empty_address + (Config::kStages - 1) * 8);
    for (int t = 0; t < walk.count; ++t) {
      int begin = 0, end = walk.cut.units;
      if (t >= walk.whole) {
        const Segment part = walk.cut.At(walk.cluster, t - walk.whole);
        begin = part.begin;
        end = part.end;
      }
      float acc[kTokens / 2];
#pragma unroll 1
      for (int g = begin; g < end; ++g) {
        Step(acc, even, odd, g == begin);
        Step(acc, odd, even, false);
      }
      // Under the last products: which tile this is, and what the epilogue needs of memory.
      const WideWork<Config> work = walk.At(t);
      const int block =
          (work.tile.row_pair * Config::kClusterCtas + rank) * Config::kWarpgroups + warpgroup;
      WideEpilogue<Config, Epilogue> epilogue(p, shared.of_warpgroup(warpgroup), warpgroup, thread,
                                              block, work.tile.token_tile * kTokens);
      WgmmaWait<0>();
      PinRegisters(acc);
      Release(previous);
      if (begin > 0) {
        HandOver(acc, PartialIndex(walk.cluster, rank));
        continue;
      }
      if (end < walk.cut.units) {
        int last = walk.cluster;
        while (walk.cut.RunBegin(last + 1) < (work.part.tile + 1) * walk.cut.units) ++last;
        AddParts(acc, walk.cluster + 1, last, rank);
      }
      epilogue.Store(acc);
    }
  }
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Wide(const __grid_constant__ GemmI4F8Params p,
                 const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const WideShared<Config> shared{dynamic_shared};
  const int rank = static_cast<int>(ClusterRank());
  if (threadIdx.x == 0) {
    for (int s = 0; s < Config::kStages; ++s) {
      MbarrierInit(shared.x_full(s), 1);
      MbarrierInit(shared.x_empty(s), Config::kClusterCtas * Config::kConsumerThreads / 32);
      MbarrierInit(shared.w_full(s), 1);
      MbarrierInit(shared.w_empty(s), Config::kConsumerThreads / 32);
    }
    for (int w = 0; w < Config::kWarpgroups; ++w) MbarrierInit(shared.part_full(w), 1);
    FenceMbarrierInit();
  }
  ClusterSync();  // barriers of both CTAs are there before either copies or arrives
  GridDependencyLaunch();
  if (threadIdx.x >= Config::kConsumerThreads) {
    RegistersDecrease<Config::kProducerRegisters>();
    const int thread = threadIdx.x - Config::kConsumerThreads;
    if (thread == 0) WideCopyTokens<Config>(p, x_map, shared, rank);
    if (thread == 32) WideCopyWeights<Config>(p, w_map, shared, rank);
  } else {
    RegistersIncrease<Config::kConsumerRegisters>();
    GridDependencyWait();  // token scales and the residual are the kernel's before this one
    WideConsumer<Config, Epilogue>(p, shared).Run(rank);
  }
  __syncwarp();
  ClusterArriveRelaxed();  // no arrival reaches a CTA that has gone
  ClusterWait();
}

}  // namespace fireq::sm90
