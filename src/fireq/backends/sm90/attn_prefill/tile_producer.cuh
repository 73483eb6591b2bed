// The producer warpgroup over tiles in the workspace: one warp copies them and, where a piece's Q
// is a box, hands pieces on; the others unpack tiles for all CTAs. Where Q is copied row by row,
// which takes a warp long, the others hand pieces on, and unpack when they have none to hand on.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/announcer.cuh"
#include "fireq/backends/sm90/attn_prefill/box_announcer.cuh"
#include "fireq/backends/sm90/attn_prefill/kernel_params.h"
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

  __device__ PrefillTileProducer(const AttnPrefillKernelParams& p, Shared& shared)
      : Base(p, shared) {}

  __device__ __forceinline__ void Run() {
    GridDependencyWait();
    if (Base::Warp() >= Shared::kFirstAnnouncer) {
      Unpack();
    } else if (p_.boxes) {
      HandOnAndCopy();
    } else {
      Copy();
    }
    FinishPrefill(p_, 4);
  }

 private:
  static constexpr uint32_t kTooEarly = 300;  // ns between looks whether a tile is wanted soon

  using Base::Lane;
  using Base::p_;
  using Base::shared_;

  // And hands pieces on, if the copying warp does not. After a piece, at least one half of a page:
  // the first two pieces can be announced at once, and the second is not urgent.
  __device__ __forceinline__ void Unpack() const {
    PrefillTileUnpacker<kDim> unpacker(p_, shared_.halves[Base::Warp() - Shared::kFirstAnnouncer]);
    uint32_t turn = 0;
    bool more = !p_.boxes && Base::NextWork(turn);
    while (more || unpacker.Left()) {
      if (more && (!unpacker.Left() || Base::Free(turn))) {
        Base::Announce(turn);
        more = Base::NextWork(++turn);
      }
      if (unpacker.Left()) {
        // Whoever waits for it is not ahead of this CTA.
        while (p_.boxes && unpacker.Tile() >= shared_.wanted) __nanosleep(kTooEarly);
        unpacker.Unpack();
      }
    }
    if (!p_.boxes) Base::AnnounceEnd(turn);
  }

  // A piece is handed on in front of its first tile, when the consumers still have the tiles in the
  // ring; what is to be known of the next is loaded behind that tile.
  __device__ __forceinline__ void HandOnAndCopy() const {
    PrefetchTensorMap(&p_.queries);
    PrefillBoxAnnouncer<kDim> announcer(p_, shared_);
    RingPlace<Shared::kStages> place;
    uint32_t turn = 0;
    for (bool more = announcer.Next(turn); more;) {
      announcer.Announce(turn);
      Want(FirstOfHead(announcer.Work()) + p_.lead);
      int32_t left = announcer.Tiles();
      int64_t number = FirstTile(announcer.Work());
      if (left > 0) CopyTile(number, place);
      more = announcer.Next(++turn);
      while (--left > 0) {
        number += p_.kv_heads;
        CopyTile(number, place);
      }
    }
    Want(0xFFFFFFFFu);
    announcer.AnnounceEnd(turn);
  }

  __device__ __forceinline__ void Copy() const {
    RingPlace<Shared::kStages> place;
    for (int32_t turn = 0;; ++turn) {
      const DealtPiece dealt(p_, turn);
      if (dealt.more >= 0) return;
      PrefillWork work;
      LoadPrefillWork(p_, dealt.at, work);
      const int32_t tiles = work.Tiles(work.first_row, kPrefillRows, p_.group);
      int64_t number = FirstTile(work);
      for (int32_t tile = 0; tile < tiles; ++tile) {
        CopyTile(number, place);
        number += p_.kv_heads;
      }
    }
  }

  __device__ __forceinline__ void Want(uint32_t tiles) const {
    if (Lane() == 0) shared_.wanted = tiles;
    __syncwarp();
  }

  // The tiles of all sequences and heads in front of the piece's.
  __device__ __forceinline__ uint32_t FirstOfHead(const PrefillWork& work) const {
    const int32_t context = work.prefix + p_.group.Query(work.rows);
    const int32_t tiles = (context + kPrefillKeys - 1) / kPrefillKeys;
    return static_cast<uint32_t>(work.first_tile * p_.kv_heads + work.kv_head * tiles);
  }

  __device__ __forceinline__ int64_t FirstTile(const PrefillWork& work) const {
    return int64_t{work.first_tile} * p_.kv_heads + work.kv_head;
  }

  __device__ __forceinline__ void CopyTile(int64_t number,
                                           RingPlace<Shared::kStages>& place) const {
    // In front of the wait for the stage, which hides how long a look takes.
    if (p_.halves > 0) WaitUnpacked(number);
    MbarrierWait(&shared_.empty[place.stage], place.parity ^ 1);
    if (ElectOne()) {
      const Tile* from = static_cast<const Tile*>(p_.workspace) + number;
      Mbarrier* full = &shared_.full[place.stage];
      MbarrierArriveExpectTx(full, sizeof(Tile));
      BulkLoad(shared_.k[place.stage], from->k, sizeof(Tile::k), full, kEvictLast);
      BulkLoad(shared_.scales[place.stage], from->scales, sizeof(Tile::scales), full, kEvictLast);
      BulkLoad(shared_.v[place.stage], from->v, sizeof(Tile::v), full, kEvictLast);
    }
    __syncwarp();
    place.Next();
  }

  __device__ __forceinline__ void WaitUnpacked(int64_t number) const {
    while (LoadAcquire(p_.progress + kPrefillReady + number) < kPrefillHalves) {
    }
    FenceProxyAsyncGlobal();  // what it says before the copies' reads
  }
};

}  // namespace fireq::sm90
