// Decode attention where a CTA has many segments: its pages and parts are read from the step's
// lists (lists.h), so that its first copies are asked for at once. Four warps compute and a fifth
// loads, as in kernel.cuh, and a sixth combines and adds what the four have of a segment while they
// compute on. Segments that the piece's ends cut come first: what ends last is whole.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/listed_load.cuh"
#include "fireq/backends/sm90/attn_decode_i4/lists.h"
#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/sums.cuh"
#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"

namespace fireq::sm90 {

template <int kDim, class Probs>
class ListedDecodeKernel {
 public:
  static constexpr int kRows = 8;
  static constexpr int kWarps = DecodeWarps(kRows);
  static constexpr int kComputeThreads = kWarps * 32;
  using Loader = ListedLoader<kDim>;
  static constexpr int kStageBytes = Loader::kStageBytes;
  using Sums = DecodeCtaSums<kDim, 1, Probs>;
  using Warp = typename Sums::Warp;

  __device__ ListedDecodeKernel(const AttnDecodeParams& p, const AttnDecodeShared& shared,
                                const DecodeLists& lists, uint8_t* base)
      : p_(p),
        lists_(lists),
        ring_(base),
        full_(reinterpret_cast<Mbarrier*>(base + shared.barriers)),
        empty_(full_ + kDecodeMaxStages),
        sums_full_(empty_ + kDecodeMaxStages + 2),
        sums_free_(sums_full_ + 2),
        flag_(reinterpret_cast<int32_t*>(base + shared.flag)),
        sums_(p, reinterpret_cast<float*>(base + shared.sums),
              reinterpret_cast<float2*>(base + shared.stats)) {}

  // The lists are read ahead of the kernel in front's end: see LaunchDecodeLists.
  __device__ void Run() {
    GridDependencyLaunch();
    if (p_.num_sequences == 0) return;
    const int lane = static_cast<int>(threadIdx.x & 31);
    const DecodeListHead* head = lists_.heads + blockIdx.x;
    const uint4 numbers = LoadGlobalNow128(head);
    const uint32_t word =
        static_cast<uint32_t>(LoadGlobalNow(reinterpret_cast<const int32_t*>(head) + lane));
    InitBarriers();
    __syncthreads();
    const DecodeList list = DecodeList::Of(lists_, numbers);
    if (list.pages == 0) return;
    if (threadIdx.x < kComputeThreads) {
      Compute(list);
    } else if (threadIdx.x < kComputeThreads + 32) {
      Loader(p_, list, ring_, full_, empty_).Run(word);
    } else {
      FinishParts(list);
    }
  }

 private:
  // While the list's head is on its way. An init takes 60 clocks and a warp's are made one after
  // another, so every warp makes its share.
  __device__ void InitBarriers() const {
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int lane = static_cast<int>(threadIdx.x & 31);
    if (warp < kWarps) {
      const int stage = warp + lane / 2 * kWarps;
      if (stage < p_.stages) MbarrierInit((lane % 2 == 0 ? full_ : empty_) + stage, 1);
    } else if (warp > kWarps && lane < 2) {
      MbarrierInit(sums_full_ + lane, kWarps);
      MbarrierInit(sums_free_ + lane, 1);
    }
    FenceMbarrierInit();
  }

  __device__ void Compute(const DecodeList& list) {
    const int warp = threadIdx.x / 32;
    int32_t page = warp;  // this warp's next
    int stage = warp;
    uint32_t phase = 0;
    for (int number = 0;; ++number) {
      const DecodePart part = list.Part(number);
      if (number == 0) GridDependencyWait();  // for Q, and before anything is written
      Warp tile;
      tile.Reset();
      const int32_t sees_all = part.context - part.queries + 1;  // keys that every row sees
      LoadQueries(part, tile);
      for (; page < part.stop; page += kWarps) {
        const int32_t first = part.first_key + page * kTokensPerPage;
        MbarrierWait(full_ + stage, phase);
        const uint8_t* block = ring_ + stage * kStageBytes;
        if (first < part.context)
          tile.Page(block, first, part.context, first + kTokensPerPage > sees_all);
        __syncwarp();
        if ((threadIdx.x & 31) == 0) MbarrierArrive(empty_ + stage);
        stage += kWarps;
        if (stage >= p_.stages) {
          stage -= p_.stages;
          phase ^= 1;
        }
      }
      HandOver(tile, number, part.stop == list.pages);
      if (part.stop == list.pages) return FinishLast(part, number % 2);
    }
  }

  __device__ void LoadQueries(const DecodePart& part, Warp& tile) {
    const float log2e_over_root =
        kDim == 128 ? 1.4426950408889634f * 0.08838834764831845f : 1.4426950408889634f * 0.125f;
    const int row = (threadIdx.x & 31) >> 2;
    const int64_t index = part.RowIndex(p_, row);
    const bool valid = index >= 0;
    const int32_t keys = part.context - part.queries + 1;
    tile.LoadQuery(0, valid ? p_.q + index * kDim : nullptr,
                   valid ? p_.scale_q[index] * log2e_over_root : 0.0f,
                   valid ? keys + part.QueryOf(p_, row) : keys);
  }

  // This warp's sums of the CTA's part `number`: to the warp that finishes it or, of the `last`
  // part, to the four together.
  __device__ __forceinline__ void HandOver(const Warp& tile, int number, bool last) {
    const int buffer = number % 2;
    MbarrierWait(sums_free_ + buffer, number / 2 % 2 ^ 1);  // the first two wait for nobody
    sums_.WriteStats(tile, buffer);
    sums_.WriteSums(0, tile, buffer);
    __syncwarp();
    if (!last && (threadIdx.x & 31) == 0) MbarrierArrive(sums_full_ + buffer);
  }

  // The last part, which no page is behind, by all four warps.
  __device__ void FinishLast(const DecodePart& part, int buffer) {
    Sums::ComputeBarrier();
    Add<kComputeThreads>(part, buffer);
    if (part.slot >= 0) Combine<kComputeThreads>(part);
  }

  // The warp that finishes all of the CTA's other parts.
  __device__ void FinishParts(const DecodeList& list) {
    GridDependencyWait();  // before anything is written
    for (int number = 0;; ++number) {
      const DecodePart part = list.Part(number);
      if (part.stop == list.pages) break;
      const int buffer = number % 2;
      MbarrierWait(sums_full_ + buffer, number / 2 % 2);
      Add<32>(part, buffer);
      __syncwarp();
      if ((threadIdx.x & 31) == 0) MbarrierArrive(sums_free_ + buffer);
      if (part.slot >= 0) Combine<32>(part);
    }
  }

  template <int kThreads>
  __device__ __forceinline__ void Add(const DecodePart& part, int buffer) {
    sums_.template AddWarps<kThreads>(
        0, buffer, [&](int row) { return part.RowIndex(p_, row); },
        [&](int row, int d, int64_t index, const typename Sums::Part& sum) {
          if (part.slot < 0) {
            sums_.Store(index, d, sum.total, sum.sum);
          } else {
            sums_.HandOn(part.slot, row, d, sum);
          }
        });
  }
  template <int kThreads>
  __device__ __forceinline__ void Combine(const DecodePart& part) {
    sums_.template Combine<kThreads>([&](int row) { return part.RowIndex(p_, row); },
                                     part.first_slot >> 1, part.first_slot, part.count, 1, flag_);
  }

  const AttnDecodeParams& p_;
  const DecodeLists& lists_;
  uint8_t* ring_;
  Mbarrier* full_;
  Mbarrier* empty_;
  Mbarrier* sums_full_;
  Mbarrier* sums_free_;
  int32_t* flag_;
  Sums sums_;
};

template <int kDim, class Probs>
__global__ void __launch_bounds__(DecodeThreads(8, true), DecodeCtasPerSm(8))
    ListedAttnDecodeI4(const __grid_constant__ AttnDecodeParams p,
                       const __grid_constant__ AttnDecodeShared shared,
                       const __grid_constant__ DecodeLists lists) {
  extern __shared__ __align__(128) uint8_t dynamic_shared[];
  ListedDecodeKernel<kDim, Probs>(p, shared, lists, dynamic_shared).Run();
}

}  // namespace fireq::sm90
