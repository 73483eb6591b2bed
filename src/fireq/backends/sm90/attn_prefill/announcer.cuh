// Hands pieces of work on to the consumers: what they must know of them, and their rows of Q. Done
// by some of the producer's warps, each for rows of its own: no warp waits for another, but for the
// first to take a piece that no CTA was dealt.
//
// What a warp knows of itself and of its piece of work is read anew each time: its registers are
// for other things.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

template <int kDim, PrefillSource kSource>
class PrefillAnnouncer {
 public:
  using Shared = PrefillShared<kDim, kSource>;
  static constexpr int kPageBytes =
      static_cast<int>(KvPageLayout{KvGrid::kAsymmetric, 1, kDim}.head_bytes());

  __device__ PrefillAnnouncer(const AttnPrefillKernelParams& p, Shared& shared)
      : p_(p), shared_(shared) {}

  static __device__ __forceinline__ uint32_t Thread() { return PrefillThread(); }
  static __device__ __forceinline__ uint32_t Lane() { return Thread() % 32; }
  static __device__ __forceinline__ uint32_t Warp() { return Thread() / 32 % 4; }
  __device__ __forceinline__ PrefillWarpWork& Work() const { return shared_.work[Warp()]; }
  static __device__ __forceinline__ bool OfKeys() { return Warp() % 2 == 0; }

  // The CTA's piece of work `turn`; false when there is none.
  __device__ __forceinline__ bool NextWork(uint32_t turn) const {
    __syncwarp();  // the one before has been read
    const DealtPiece dealt(p_, static_cast<int32_t>(turn));
    int32_t at = dealt.at;
    if (dealt.more >= 0) {
      at = -1;
      if constexpr (kSource == PrefillSource::kPages) at = Taken(static_cast<uint32_t>(dealt.more));
      if (at < 0) return false;
    }
    PrefillWork work;
    LoadPrefillWork(p_, at, work);
    if (Lane() == 0) {
      Work().fresh = dealt.more >= 0;
      static_cast<PrefillWork&>(Work()) = work;
      if constexpr (kSource == PrefillSource::kPages) {
        constexpr int kValues =
            static_cast<int>(KvPageLayout{KvGrid::kAsymmetric, 1, kDim}.v_offset());
        Work().context = work.prefix + p_.group.Query(work.rows);
        Work().half = p_.pages + int64_t{work.kv_head} * kPageBytes + (OfKeys() ? 0 : kValues);
      }
    }
    __syncwarp();
    return true;
  }

  // Whether piece `turn` could be announced without a wait.
  __device__ __forceinline__ bool Free(uint32_t turn) const {
    return __any_sync(0xFFFFFFFFu,
                      MbarrierTestWait(&shared_.piece_empty[turn & 1], ~(turn >> 1) & 1));
  }

  // What the consumers must know of the piece and its rows.
  __device__ __forceinline__ void Announce(uint32_t turn) const {
    const int buffer = static_cast<int>(turn & 1);
    constexpr int kThreads = 32 * Shared::kAnnouncers;
    constexpr int kRows = (kPrefillRows + kThreads - 1) / kThreads;  // a thread
    float scales[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = Announcer() + kThreads * i;
      if (row < kPrefillRows) scales[i] = LoadRowScale(Work(), p_, Work().first_row + row);
    }
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
    if (p_.boxes && Warp() == Shared::kFirstAnnouncer && ElectOne()) {
      LoadQueryBox(Work(), p_, turn & 1, shared_);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = Announcer() + kThreads * i;
      if (row >= kPrefillRows) continue;
      shared_.rows[buffer][row] = DescribeRow<kDim>(Work(), p_, Work().first_row + row, scales[i]);
    }
    if (Announcer() < kPrefillConsumers) {
      DescribePiece(Work(), p_.group, Work().fresh, Announcer(), shared_.piece[buffer]);
    }
    __syncwarp();
    if (Lane() == 0) MbarrierArrive(&shared_.piece_full[buffer]);
    if (p_.boxes) return;
    LoadQueries(buffer);
    CopyAsyncArrive(&shared_.queries_full[buffer]);
  }

  // That there is no piece `turn`.
  __device__ __forceinline__ void AnnounceEnd(uint32_t turn) const {
    AnnouncePrefillEnd(turn, Announcer() == 0, shared_);
  }

 private:
  // Where the piece is that the CTA takes as number `more` behind those that it was dealt; -1 when
  // there is none.
  __device__ __forceinline__ int32_t Taken(uint32_t more) const {
    if (p_.undealt == 0) return -1;
    const uint32_t slot = more % 4;
    if (Warp() == 0) {
      const int32_t at = TakePiece(p_);
      if (Lane() == 0) {
        shared_.taken[slot] = at;
        MbarrierArrive(&shared_.taken_full[slot]);
      }
      return at;
    }
    MbarrierWait(&shared_.taken_full[slot], more / 4 & 1);
    return shared_.taken[slot];
  }

  // This thread's number among those that announce.
  static __device__ __forceinline__ int Announcer() {
    return static_cast<int>(Thread() % 128) - 32 * Shared::kFirstAnnouncer;
  }

  // Begins to copy the rows of Q that this warp has described, zeros for rows that are not there.
  __device__ __forceinline__ void LoadQueries(int buffer) const {
    constexpr uint32_t kChunks = kDim / 16;  // of a row
    const uint32_t chunk = Lane() % kChunks;
#pragma unroll 1
    for (uint32_t first = 32 * (Warp() - Shared::kFirstAnnouncer); first < kPrefillRows;
         first += 32 * Shared::kAnnouncers) {
#pragma unroll 4
      for (uint32_t i = 0; i < kChunks; ++i) {
        const uint32_t row = first + Lane() / kChunks + 32 / kChunks * i;
        const uint32_t swizzle = RowSwizzle<kDim>(row);
        const int64_t index = shared_.rows[buffer][row].index;
        CopyAsync16(shared_.q[buffer][0] + row * kDim + 16 * (chunk ^ swizzle),
                    p_.q + (index < 0 ? 0 : index) * kDim + 16 * chunk, index < 0 ? 0 : 16);
      }
    }
  }

 protected:
  const AttnPrefillKernelParams& p_;
  Shared& shared_;
};

}  // namespace fireq::sm90
