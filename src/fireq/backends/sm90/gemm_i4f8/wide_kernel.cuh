// The GEMM where the tensor cores bind (*table*): operands E4M3((q - z) s) made in registers by
// FP16 arithmetic, one set of accumulators over all of K.
//
// Persistent clusters of two CTAs that share their tokens: each copies one half of the token tile
// to both. In a CTA, the consumer warpgroups convert the next group's codes while the tensor cores
// multiply the last one's. Steps run on from tile to tile: the next tile's first operands are made
// under the last one's products. The four warps of the last warpgroup keep copies going: tokens,
// weights, token scales, and outputs. Runs of tiles follow WideWalk. Small matrices have enough
// tiles for all multiprocessors only if these are of 64 rows: then the consumers share K.
#pragma once

#include <cuda.h>

#include "fireq/backends/sm90/gemm_i4f8/wide_consumer.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_copies.cuh"

namespace fireq::sm90 {

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Wide(const __grid_constant__ GemmI4F8Params p, const __grid_constant__ GemmMaps maps) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const WideShared<Config> shared{dynamic_shared};
  const int rank = static_cast<int>(ClusterRank());
  constexpr int kWeightsThread = Config::kConsumerThreads + 32;
  if (threadIdx.x == Config::kConsumerThreads) PrefetchTensorMap(&maps.tokens);
  // A warp's share each: one after another they would take a thread a microsecond.
  if (threadIdx.x % 32 == 0) {
    constexpr int kWarps = Config::kThreads / 32;
    const int warp = threadIdx.x / 32;
    for (int i = warp; i <= 2 * Config::kStages + Config::kWarpgroups; i += kWarps) {
      const int s = i % Config::kStages;
      if (i < Config::kStages) {
        MbarrierInit(shared.x_full(s), 1);
        MbarrierInit(shared.x_empty(s), Config::kClusterCtas * Config::kConsumerThreads / 32);
      } else if (i < 2 * Config::kStages) {
        MbarrierInit(shared.w_empty(s), Config::kConsumerThreads / 32);
      } else if (i < 2 * Config::kStages + Config::kWarpgroups) {
        const int warpgroup = i - 2 * Config::kStages;
        MbarrierInit(shared.out_ready(warpgroup), 1);
        for (int half = 0; half < 2; ++half) MbarrierInit(shared.out_full(half, warpgroup), 4);
      } else {
        MbarrierInit(shared.scales_full(), 32);
        MbarrierInit(shared.scales_empty(), Config::kConsumerThreads / 32);
        if constexpr (Config::kOneTile)
          MbarrierInit(shared.tokens_read(), Config::kConsumerThreads / 32);
      }
    }
    if (threadIdx.x == kWeightsThread)
      for (int s = 0; s < Config::kStages; ++s) MbarrierInit(shared.w_full(s), 1);
    FenceMbarrierInit();
  }
  __syncwarp();
  ClusterArriveRelaxed();  // barriers of both CTAs are there before either copies or arrives
  if (threadIdx.x >= Config::kConsumerThreads) {
    const int thread = threadIdx.x - Config::kConsumerThreads;
    // Meanwhile: the walk's divisions, and weights, which are no one else's.
    const WideWalk<Config> walk(p);
    WideWeights<Config> weights{walk, shared, rank};
    if (threadIdx.x == kWeightsThread) weights.CopyFirst(maps.weights);
    __syncwarp();
    ClusterWait();
    GridDependencyLaunch();
    RegistersDecrease<Config::kProducerRegisters>();
    if (thread == 0) WideCopyTokens<Config>(walk, maps.tokens, shared, rank);
    if (threadIdx.x == kWeightsThread) weights.CopyRest(maps.weights);
    if (thread / 32 == 2) WideCopyScales<Config>(p, walk, shared, thread % 32);
    if (thread == 96) WideCopyOutputs<Config, Epilogue>(walk, maps, shared, rank);
  } else {
    ClusterWait();
    GridDependencyLaunch();
    RegistersIncrease<Config::kConsumerRegisters>();
    GridDependencyWait();  // token scales and the residual are the kernel's before this one
    WideConsumer<Config, Epilogue>(p, shared).Run(rank);
  }
  __syncwarp();
  ClusterArriveRelaxed();  // no arrival reaches a CTA that has gone
  ClusterWait();
}

}  // namespace fireq::sm90
