// The GEMM where the tensor cores bind (*table*): operands E4M3((q - z) s) looked up in registers,
// one set of accumulators over all of K.
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
};

// The tiles of this CTA's cluster.
template <class Config>
struct WideWalk {
  int row_pairs, token_tiles, first, stride, count, steps;
  __device__ explicit WideWalk(const GemmI4F8Params& p)
      : row_pairs(CeilDiv(p.super_blocks, Config::kClusterCtas)),
        token_tiles(CeilDiv(p.m, Config::kTokens)),
        first(blockIdx.x / Config::kClusterCtas),
        stride(gridDim.x / Config::kClusterCtas),
        count((p.tiles - first + stride - 1) / stride),
        steps(WideSteps(p.groups)) {}
  __device__ WideTile At(int i) const {
    return WideTileAt(first + i * stride, row_pairs, token_tiles);
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
    const int token = walk.At(t).token_tile * Config::kTokens + rank * kHalf;
    for (int g = 0; g < walk.steps; ++g, at.Next()) {
      MbarrierWait(shared.x_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.x_full(at.stage), Config::kXBytes);
      TmaLoad2DMulticast(shared.x(at.stage) + rank * kHalf * kGroup, &x_map, g * kGroup, token,
                         shared.x_full(at.stage), (1 << Config::kClusterCtas) - 1, kEvictLast);
    }
  }
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
    const int block = walk.At(beyond ? t - 1 : t).row_pair * Config::kClusterCtas + rank;
    for (int g = 0; g < (beyond ? kWideReadAhead : walk.steps); ++g, at.Next()) {
      MbarrierWait(shared.w_empty(at.stage), at.parity);
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

  __device__ void Run(int rank) {
    const WideWalk<Config> walk(p);
    uint32_t even[16], odd[16];
    Convert(LoadRaw(), even);
    // The first weights; no tokens go with them.
    if (thread % 32 == Config::kClusterCtas)
      MbarrierArriveCluster(empty_address + (Config::kStages - 1) * 8);
    for (int t = 0; t < walk.count; ++t) {
      const WideTile tile = walk.At(t);
      const int block =
          (tile.row_pair * Config::kClusterCtas + rank) * Config::kWarpgroups + warpgroup;
      float acc[kTokens / 2];
#pragma unroll 1
      for (int g = 0; g < walk.steps; g += 2) {
        Step(acc, even, odd, g == 0);
        Step(acc, odd, even, false);
      }
      WideEpilogue<Config, Epilogue> epilogue(p, shared.of_warpgroup(warpgroup), warpgroup, thread,
                                              block, tile.token_tile * kTokens);
      WgmmaWait<0>();
      PinRegisters(acc);
      Release(previous);
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
