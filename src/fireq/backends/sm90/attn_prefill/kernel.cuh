// Prefill attention over the paged INT4 cache: one producer and three consumer warpgroups a CTA,
// persistent over a list of pieces sorted by length.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/attn_prefill/consumer.cuh"
#include "fireq/backends/sm90/attn_prefill/producer.cuh"
#include "fireq/backends/sm90/attn_prefill/shared.cuh"

namespace fireq::sm90 {

template <int kDim>
__device__ __forceinline__ void InitPrefillShared(PrefillShared<kDim>& shared) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < kPrefillStages; ++i) {
      MbarrierInit(&shared.full[i], 4);                       // the producer's warps
      MbarrierInit(&shared.empty[i], 4 * kPrefillConsumers);  // the consumers' warps
    }
    for (int i = 0; i < 2; ++i) {
      MbarrierInit(&shared.piece_full[i], 4);
      MbarrierInit(&shared.queries_full[i], 128);  // the producer's threads
      MbarrierInit(&shared.piece_empty[i], 4 * kPrefillConsumers);
    }
    for (int i = 0; i < 4 * kPrefillRawPages; ++i) MbarrierInit(&shared.raw_full[0][0] + i, 1);
    FenceMbarrierInit();
  }
  __syncthreads();
}

// 128 x 56 + 384 x 152 registers are what 512 x 128 gave the CTA: asking for more hangs.
template <int kDim, int kTerms>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    AttnPrefill(const __grid_constant__ AttnPrefillParams p) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  PrefillShared<kDim>& shared = *reinterpret_cast<PrefillShared<kDim>*>(dynamic_shared);
  InitPrefillShared<kDim>(shared);
  const int warp = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 32, 0);
  const int group = warp / 4;
  if (group == kPrefillConsumers) {
    RegistersDecrease<56>();
    PrefillProducer<kDim>(p, shared).Run();
  } else {
    RegistersIncrease<152>();
    PrefillConsumer<kDim, kTerms>(p, shared, group).Run();
  }
}

}  // namespace fireq::sm90
