// The producer warpgroup that copies packed pages in and unpacks them itself. Of a tile's two pages
// each belongs to a pair of warps, one of which does K and the other V, each with packed halves of
// pages of its own: no warp waits for another.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/announcer.cuh"
#include "fireq/backends/sm90/attn_prefill/unpack.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <int kDim>
class PrefillPageProducer : PrefillAnnouncer<kDim, PrefillSource::kPages> {
 public:
  using Base = PrefillAnnouncer<kDim, PrefillSource::kPages>;
  using Shared = typename Base::Shared;

  __device__ PrefillPageProducer(const AttnPrefillKernelParams& p, Shared& shared)
      : Base(p, shared) {}

  __device__ __forceinline__ void Run() {
    uint32_t index = 0;  // of a tile, of all that the CTA has
    uint32_t turn = 0;
    for (; Base::NextWork(turn); ++turn) {
      Base::Announce(turn);
      const int32_t tiles = Work().Tiles(Work().first_row, kPrefillRows, p_.group);
      index -= Shared::kRawPages;
      for (int32_t tile = -Shared::kRawPages; tile < tiles; ++tile, ++index) {
        if (tile >= 0) Unpack(index, tile);
        const int32_t next = tile + Shared::kRawPages;
        if (next < tiles) Load(PageNumber(next), index + Shared::kRawPages);
      }
    }
    Base::AnnounceEnd(turn);
    FinishPrefill(p_, 4);
  }

 private:
  using Base::Lane;
  using Base::OfKeys;
  using Base::p_;
  using Base::shared_;
  using Base::Warp;
  using Base::Work;

  // Of the sequence's pages, the warp's one of a tile.
  static __device__ __forceinline__ int32_t Page(int32_t tile) {
    return kPrefillPages * tile + static_cast<int32_t>(Warp() / 2);
  }

  // The lanes hold the page numbers of 32 tiles. Behind the last page its bytes come again: no key
  // of it is seen there, but what the tensor cores multiply by zero must be finite.
  __device__ __forceinline__ int32_t PageNumber(int32_t tile) {
    if (static_cast<uint32_t>(tile) % 32 == 0) {
      const PrefillWork& work = Work();
      const int32_t keys = work.Keys(work.first_row, kPrefillRows, p_.group);
      const int32_t page =
          min(Page(tile + static_cast<int32_t>(Lane())), (keys - 1) / kTokensPerPage);
      number_ = p_.page_table[int64_t{work.sequence} * p_.max_pages + page];
    }
    return __shfl_sync(0xFFFFFFFFu, number_, static_cast<uint32_t>(tile) % 32);
  }

  // `index` counts the CTA's tiles. The warp has read what was in the raw half of a page before.
  __device__ __forceinline__ void Load(int32_t number, uint32_t index) {
    const uint32_t slot = index % Shared::kRawPages;
    if (ElectOne()) {
      constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
      Mbarrier* full = &shared_.raw_full[Warp()][slot];
      uint8_t* to = shared_.raw[Warp()][slot];
      const uint8_t* from = Work().half + static_cast<uint64_t>(static_cast<uint32_t>(number)) *
                                              static_cast<uint32_t>(p_.kv_heads * Base::kPageBytes);
      MbarrierArriveExpectTx(full, Shared::kRawBytes);
      BulkLoad(to, from, Shared::kRawScales, full, kEvictLast);
      BulkLoad(to + Shared::kRawScales,
               from + kLayout.k_scale_offset() - (OfKeys() ? 0 : kLayout.v_offset()),
               Shared::kRawBytes - Shared::kRawScales, full, kEvictLast);
    }
    __syncwarp();
  }

  // Tile `tile` of the piece.
  __device__ __forceinline__ void Unpack(uint32_t index, int32_t tile) {
    const uint32_t slot = index % Shared::kRawPages;
    MbarrierWait(&shared_.raw_full[Warp()][slot], index / Shared::kRawPages & 1);
    const uint8_t* raw = shared_.raw[Warp()][slot];
    // Of the page as many tokens belong to the sequence.
    const int32_t valid = Work().context - Page(tile) * kTokensPerPage;
    if (OfKeys()) {
      constexpr int kAhead = kDim == 128 ? 3 : 1;  // 3 at 64: spills
      Unpack(PrefillKeyUnpack<kDim, kAhead>(), raw, valid, index, shared_.k);
    } else {
      Unpack(PrefillValueUnpack<kDim, 1>(), raw, valid, index, shared_.v);
    }
    FenceProxyAsync();  // the stores above before the tensor cores' reads
    __syncwarp();
    if (Lane() == 0) MbarrierArrive(&shared_.full[index % Shared::kStages]);
  }

  template <class Half, int kBytes>
  __device__ __forceinline__ void Unpack(Half half, const uint8_t* raw, int32_t valid,
                                         uint32_t index,
                                         uint8_t (&to)[Shared::kStages][kPrefillPages][kBytes]) {
    const uint32_t lane = Lane();
    const uint8_t* scales = raw + Shared::kRawScales;
    half.Load(raw, scales, lane, valid);
    // Until the consumers have read what the tile's stage held before.
    const uint32_t stage = index % Shared::kStages;
    MbarrierWait(&shared_.empty[stage], ~(index / Shared::kStages) & 1);
    half.Store(raw, scales, lane, to[stage][Warp() / 2], shared_.scales[stage][Warp() / 2]);
  }

  int32_t number_ = 0;  // of a page: one a lane
};

}  // namespace fireq::sm90
