// Prefill attention over the paged INT4 cache: one producer and three consumer warpgroups a CTA,
// persistent over its pieces of work (AttnPrefillPlan::pieces).
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

#include "fireq/backends/sm90/attn_prefill/consumer.cuh"
#include "fireq/backends/sm90/attn_prefill/kernel_params.h"
#include "fireq/backends/sm90/attn_prefill/page_producer.cuh"
#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/attn_prefill/tile_producer.cuh"

namespace fireq::sm90 {

template <class Shared>
__device__ __forceinline__ void InitPrefillShared(Shared& shared, bool boxes) {
  if (threadIdx.x == 0) {
    // One warp, which copies the tiles too, hands a piece on, or each announcing warp a part; one
    // thread copies the box, or all of theirs copy rows.
    const bool alone = boxes && Shared::kTilesFrom == PrefillSource::kTiles;
    const uint32_t announcing = alone ? 1 : Shared::kAnnouncers;
    const uint32_t copying = boxes ? 1 : 32 * Shared::kAnnouncers;
    for (int i = 0; i < Shared::kStages; ++i) {
      MbarrierInit(&shared.full[i], Shared::kFillers);
      MbarrierInit(&shared.empty[i], 4 * kPrefillConsumers);  // the consumers' warps
    }
    for (int i = 0; i < 2; ++i) {
      MbarrierInit(&shared.piece_full[i], announcing);
      MbarrierInit(&shared.queries_full[i], copying);
      MbarrierInit(&shared.piece_empty[i], 4 * kPrefillConsumers);
    }
    if constexpr (Shared::kTilesFrom == PrefillSource::kPages) {
      for (int i = 0; i < 4 * Shared::kRawPages; ++i) MbarrierInit(&shared.raw_full[0][0] + i, 1);
      for (Mbarrier& full : shared.taken_full) MbarrierInit(&full, 1);
    } else {
      for (auto& half : shared.halves) {
        for (Mbarrier& full : half.full) MbarrierInit(&full, 1);
      }
      shared.wanted = 0;
    }
    FenceMbarrierInit();
  }
  __syncthreads();
}

template <int kDim, PrefillSource kSource>
using PrefillProducer = std::conditional_t<kSource == PrefillSource::kPages,
                                           PrefillPageProducer<kDim>, PrefillTileProducer<kDim>>;

template <int kDim, int kTerms, PrefillSource kSource>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    AttnPrefill(const __grid_constant__ AttnPrefillKernelParams p) {
  using Shared = PrefillShared<kDim, kSource>;
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
  InitPrefillShared(shared, p.boxes);
  const int warp = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 32, 0);
  const int group = warp / 4;
  if (group == kPrefillConsumers) {
    RegistersDecrease<Shared::kProducerRegisters>();
    PrefillProducer<kDim, kSource>(p, shared).Run();
  } else {
    RegistersIncrease<Shared::kConsumerRegisters>();
    PrefillConsumer<kDim, kTerms, kSource>(p, shared, group).Run();
  }
}

}  // namespace fireq::sm90
