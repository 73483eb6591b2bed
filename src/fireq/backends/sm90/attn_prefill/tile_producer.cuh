// The producer warpgroup over tiles in the workspace: one warp copies them, the others hand pieces
// on and, when they have none to hand on, unpack tiles for all CTAs.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/announcer.cuh"
#include "fireq/backends/sm90/attn_prefill/tile_unpacker.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <int kDim>
class PrefillTileProducer : PrefillAnnouncer<kDim, PrefillSource::kTiles> {
 public:
  using Base = PrefillAnnouncer<kDim, PrefillSource::kTiles>;
  using Shared = typename Base::Shared;
  using Tile = PrefillTile<kDim>;

  __device__ PrefillTileProducer(const AttnPrefillParams& p, Shared& shared) : Base(p, shared) {}

  __device__ __forceinline__ void Run() {
    GridDependencyWait();
    if (Base::Warp() >= Shared::kFirstAnnouncer) {
      HandOnAndUnpack();
    } else {
      Copy();
    }
    if (p_.halves > 0) Finish();
  }

 private:
  using Base::Lane;
  using Base::p_;
  using Base::shared_;

  // After a piece, at least one half of a page: the first two pieces can be announced at once, and
  // the second is not urgent.
  __device__ __forceinline__ void HandOnAndUnpack() const {
    PrefillTileUnpacker<kDim> unpacker(p_, shared_.halves[Base::Warp() - Shared::kFirstAnnouncer]);
    uint32_t turn = 0;
    bool more = Base::NextWork(turn);
    while (more || unpacker.Left()) {
      if (more && (!unpacker.Left() || Base::Free(turn))) {
        Base::Announce(turn);
        more = Base::NextWork(++turn);
      }
      if (unpacker.Left()) unpacker.Unpack();
    }
    Base::AnnounceEnd(turn);
  }

  __device__ __forceinline__ void Copy() const {
    RingPlace<Shared::kStages> place;
    PrefillWork work;
    for (int32_t turn = 0; NextPrefillWork(p_, turn, work); ++turn) {
      const int32_t tiles = work.Tiles(work.first_row, kPrefillRows, p_.group);
      int64_t number = int64_t{work.first_tile} * p_.kv_heads + work.kv_head;
      for (int32_t tile = 0; tile < tiles; ++tile) {
        // In front of the wait for the stage, which hides how long a look takes.
        if (p_.halves > 0) WaitUnpacked(number);
        MbarrierWait(&shared_.empty[place.stage], place.phase ^ 1);
        if (ElectOne()) {
          const Tile* from = static_cast<const Tile*>(p_.workspace) + number;
          Mbarrier* full = &shared_.full[place.stage];
          MbarrierArriveExpectTx(full, sizeof(Tile));
          BulkLoad(shared_.k[place.stage], from->k, sizeof(Tile::k), full, kEvictLast);
          BulkLoad(shared_.scales[place.stage], from->scales, sizeof(Tile::scales), full,
                   kEvictLast);
          BulkLoad(shared_.v[place.stage], from->v, sizeof(Tile::v), full, kEvictLast);
        }
        __syncwarp();
        place.Next();
        number += p_.kv_heads;
      }
    }
  }

  __device__ __forceinline__ void WaitUnpacked(int64_t number) const {
    while (LoadAcquire(p_.progress + kPrefillReady + number) < kPrefillHalves) {
    }
    FenceProxyAsyncGlobal();  // what it says before the copies' reads
  }

  // This warp neither takes halves nor looks for tiles any more. The grid's last to say so leaves
  // all numbers as they were found.
  __device__ __forceinline__ void Finish() const {
    uint32_t before = 0;
    if (Lane() == 0) before = AtomicAddAcqRel(p_.progress + kPrefillDone, 1u);
    before = __shfl_sync(0xFFFFFFFFu, before, 0);
    __syncwarp();
    if (before + 1 < 4 * gridDim.x) return;
    const uint32_t count = kPrefillReady + p_.halves / kPrefillHalves;
    for (uint32_t i = Lane(); i < count; i += 32) p_.progress[i] = 0;
  }
};

}  // namespace fireq::sm90
