// The GEMM where the tensor cores bind (*table*): operands E4M3((q - z) s) made in registers by
// FP16 arithmetic, one set of accumulators over all of K.
//
// Persistent clusters of two CTAs that share their tokens: each copies one half of the token tile
// to both. In a CTA, the consumer warpgroups convert the next group's codes while the tensor cores
// multiply the last one's. Steps run on from tile to tile: the next tile's first operands are made
// under the last one's products. The four warps of the last warpgroup keep copies going: tokens,
// weights, token scales, and outputs. Runs of tiles follow WideWalk. Small matrices have enough
// tiles for all multiprocessors only if these are of 64 rows: then the consumers share K, and a CTA
// is a cluster by itself.
#pragma once

#include <cuda.h>

#include "fireq/backends/sm90/gemm_i4f8/wide_consumer.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_copies.cuh"

namespace fireq::sm90 {

// The warps that keep copies going make the barriers, each about those that it copies by: one
// thread after another's would take a microsecond.
template <class Config>
__device__ __forceinline__ void WideInitBarriers(const WideShared<Config>& shared, int copy_warp) {
  constexpr int kConsumerWarps = Config::kConsumerThreads / 32;
  if (!ElectOne()) return;
  if (copy_warp < 2) {
#pragma unroll
    for (int s = 0; s < Config::kStages; ++s) {
      if (copy_warp == 0) MbarrierInit(shared.x_full(s), 1);
      if (copy_warp == 1) MbarrierInit(shared.w_full(s), 1);
    }
  } else if (copy_warp == 2) {
#pragma unroll
    for (int s = 0; s < Config::kStages; ++s) {
      MbarrierInit(shared.x_empty(s), Config::kClusterCtas * kConsumerWarps);
      MbarrierInit(shared.w_empty(s), kConsumerWarps);
    }
  } else {
#pragma unroll
    for (int w = 0; w < Config::kWarpgroups; ++w) {
      MbarrierInit(shared.out_ready(w), 1);
      for (int half = 0; half < 2; ++half) MbarrierInit(shared.out_full(half, w), 4);
    }
    MbarrierInit(shared.scales_full(), 32);
    MbarrierInit(shared.scales_empty(), kConsumerWarps);
    if constexpr (Config::kOneTile) MbarrierInit(shared.tokens_read(), kConsumerWarps);
  }
  FenceMbarrierInit();
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Wide(const __grid_constant__ GemmI4F8Params p, const __grid_constant__ GemmMaps maps) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const WideShared<Config> shared{dynamic_shared};
  const int rank = Config::kClusterCtas > 1 ? static_cast<int>(ClusterRank()) : 0;
  // What starts a CTA is in front of the code and in one piece, as none of it has been fetched.
  const bool copies = threadIdx.x >= Config::kConsumerThreads;
  const int thread = static_cast<int>(threadIdx.x) - Config::kConsumerThreads;
  if (thread == 0) PrefetchTensorMap(&maps.tokens);
  if (copies) WideInitBarriers(shared, thread / 32);
  __syncwarp();
  // Barriers of both CTAs are there before either copies or arrives.
  if constexpr (Config::kClusterCtas > 1) ClusterArriveRelaxed();
  const WideWalk<Config> walk(p);
  WideWork first = walk.At(0);
  asm volatile("" : "+r"(first.begin), "+r"(first.end), "+r"(first.tile.token_tile));  // now
  WideWeights<Config> weights(walk, first, shared, rank);
  // Meanwhile weights, which are no one else's.
  if (thread / 32 == 1 && ElectOne()) weights.CopyFirst(maps.weights);
  __syncwarp();
  if constexpr (Config::kClusterCtas > 1) {
    ClusterWait();
  } else {
    __syncthreads();
  }
  GridDependencyLaunch();
  if (copies) {
    RegistersDecrease<Config::kProducerRegisters>();
    // By one thread each, as the compiler can see: else every copy would have a loop over threads.
    if (thread / 32 == 0 && ElectOne()) WideCopyTokens<Config>(walk, first, maps, shared, rank);
    if (thread / 32 == 1 && ElectOne()) weights.CopyRest(maps.weights);
    if (thread / 32 == 2) WideCopyScales<Config>(p, walk, shared, thread % 32);
    if (thread / 32 == 3 && ElectOne()) WideCopyOutputs<Config, Epilogue>(walk, maps, shared, rank);
  } else {
    RegistersIncrease<Config::kConsumerRegisters>();
    GridDependencyWait();  // token scales and the residual are the kernel's before this one
    using Consumer = WideConsumer<Config, Epilogue>;
    if constexpr (Config::kSharesBlock) {
      // As the compiler can see that a warp has one: else each would keep who takes which branch.
      if (__shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0) == 0) {
        Consumer(p, shared, rank).Run(rank);
      } else {
        WideConsumer<Config, Epilogue, Config::kTokens / 2>(p, shared, rank).Run(rank);
      }
    } else {
      Consumer(p, shared, rank).Run(rank);
    }
  }
}

}  // namespace fireq::sm90
