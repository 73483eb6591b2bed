// Hands pieces of work on where a piece's rows of Q are one box of a tensor map: by one warp,
// beside what else it does. Rows that are not there come from the sequence in front, or are zero:
// their scale is 0, and nobody stores them.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/kernel_params.h"
#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <int kDim>
class PrefillBoxAnnouncer {
 public:
  using Shared = PrefillShared<kDim, PrefillSource::kTiles>;

  __device__ PrefillBoxAnnouncer(const AttnPrefillKernelParams& p, Shared& shared)
      : p_(p), shared_(shared) {}

  // The CTA's piece of work `turn`: of those that it was dealt or, behind them, one of those that
  // nobody was. Begins to load its rows' scales; false when there is none.
  __device__ __forceinline__ bool Next(uint32_t turn) {
    const DealtPiece dealt(p_, static_cast<int32_t>(turn));
    fresh_ = dealt.more >= 0;
    const int32_t at = fresh_ ? TakePiece(p_) : dealt.at;
    if (at < 0) return false;
    LoadPrefillWork(p_, at, work_);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      scale_[i] = LoadRowScale(work_, p_, work_.first_row + Lane() + 32 * i);
    }
    return true;
  }
  __device__ __forceinline__ const PrefillWork& Work() const { return work_; }
  // That the piece visits.
  __device__ __forceinline__ int32_t Tiles() const {
    return work_.Tiles(work_.first_row, kPrefillRows, p_.group);
  }

  // What the consumers must know of that piece, and begins to copy its rows of Q.
  __device__ __forceinline__ void Announce(uint32_t turn) const {
    const uint32_t buffer = turn & 1;
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
    if (ElectOne()) LoadQueryBox(work_, p_, buffer, shared_);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int32_t row = Lane() + 32 * i;
      shared_.rows[buffer][row] = DescribeRow<kDim>(work_, p_, work_.first_row + row, scale_[i]);
    }
    if (Lane() < kPrefillConsumers) {
      DescribePiece(work_, p_.group, fresh_, Lane(), shared_.piece[buffer]);
    }
    __syncwarp();
    if (Lane() == 0) MbarrierArrive(&shared_.piece_full[buffer]);
  }

  // That there is no piece `turn`.
  __device__ __forceinline__ void AnnounceEnd(uint32_t turn) const {
    AnnouncePrefillEnd(turn, true, shared_);
  }

 private:
  static constexpr int kRows = kPrefillRows / 32;  // a lane

  static __device__ __forceinline__ int32_t Lane() {
    return static_cast<int32_t>(PrefillThread() % 32);
  }

  const AttnPrefillKernelParams& p_;
  Shared& shared_;
  PrefillWork work_;
  bool fresh_ = false;
  float scale_[kRows];
};

}  // namespace fireq::sm90
