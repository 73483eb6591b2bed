// The producer warpgroup over tiles that UnpackPrefillTiles has left in the workspace: one warp
// copies them, the others hand pieces on.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/announcer.cuh"
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
    if (Base::Warp() >= Shared::kFirstAnnouncer) {
      uint32_t turn = 0;
      for (; Base::NextWork(turn); ++turn) Base::Announce(turn);
      Base::AnnounceEnd(turn);
    } else {
      GridDependencyWait();  // for the tiles; all else was there before they were begun
      Copy();
    }
  }

 private:
  using Base::p_;
  using Base::shared_;

  __device__ __forceinline__ void Copy() const {
    RingPlace<Shared::kStages> place;
    PrefillWork work;
    for (int32_t turn = 0; NextPrefillWork(p_, turn, work); ++turn) {
      const int32_t tiles = work.Tiles(work.first_row, kPrefillRows, p_.group);
      const Tile* from = static_cast<const Tile*>(p_.workspace) +
                         (int64_t{work.first_tile} * p_.kv_heads + work.kv_head);
      for (int32_t tile = 0; tile < tiles; ++tile) {
        MbarrierWait(&shared_.empty[place.stage], place.phase ^ 1);
        if (ElectOne()) {
          Mbarrier* full = &shared_.full[place.stage];
          MbarrierArriveExpectTx(full, sizeof(Tile));
          BulkLoad(shared_.k[place.stage], from->k, sizeof(Tile::k), full, kEvictLast);
          BulkLoad(shared_.scales[place.stage], from->scales, sizeof(Tile::scales), full,
                   kEvictLast);
          BulkLoad(shared_.v[place.stage], from->v, sizeof(Tile::v), full, kEvictLast);
        }
        __syncwarp();
        place.Next();
        from += p_.kv_heads;
      }
    }
  }
};

}  // namespace fireq::sm90
