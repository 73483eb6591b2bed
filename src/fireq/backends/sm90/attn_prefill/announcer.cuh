// Hands pieces of work on to the consumers: what they must know of them, and their rows of Q. Done
// by some of the producer's warps, each for rows of its own: no warp waits for another.
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

  __device__ PrefillAnnouncer(const AttnPrefillParams& p, Shared& shared)
      : p_(p), shared_(shared) {}

  static __device__ __forceinline__ uint32_t Thread() {
    uint32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
  }
  static __device__ __forceinline__ uint32_t Lane() { return Thread() % 32; }
  static __device__ __forceinline__ uint32_t Warp() { return Thread() / 32 % 4; }
  __device__ __forceinline__ PrefillWarpWork& Work() const { return shared_.work[Warp()]; }
  static __device__ __forceinline__ bool OfKeys() { return Warp() % 2 == 0; }

  // The CTA's piece of work `turn`; false when there is none.
  __device__ __forceinline__ bool NextWork(uint32_t turn) const {
    __syncwarp();  // the one before has been read
    PrefillWork work;
    if (!NextPrefillWork(p_, static_cast<int32_t>(turn), work)) return false;
    if (Lane() == 0) {
      static_cast<PrefillWork&>(Work()) = work;
      if constexpr (kSource == PrefillSource::kPages) {
        constexpr int kValues =
            static_cast<int>(KvPageLayout{KvGrid::kAsymmetric, 1, kDim}.v_offset());
        Work().context = work.prefix + work.rows / p_.group;
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
    PrefillRow rows[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = Announcer() + kThreads * i;
      if (row < kPrefillRows) rows[i] = Row(Work(), Work().first_row + row);
    }
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = Announcer() + kThreads * i;
      if (row < kPrefillRows) shared_.rows[buffer][row] = rows[i];
    }
    if (Announcer() < kPrefillConsumers) {
      Describe(Work(), Announcer(), shared_.piece[buffer]);
    }
    __syncwarp();
    if (Lane() == 0) MbarrierArrive(&shared_.piece_full[buffer]);
    LoadQueries(buffer);
    CopyAsyncArrive(&shared_.queries_full[buffer]);
  }

  // That there is no piece `turn`.
  __device__ __forceinline__ void AnnounceEnd(uint32_t turn) const {
    const int buffer = static_cast<int>(turn & 1);
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
    if (Lane() == 0) {
      if (Announcer() == 0) shared_.piece[buffer].tiles = -1;
      MbarrierArrive(&shared_.piece_full[buffer]);
    }
  }

 private:
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

  __device__ __forceinline__ PrefillRow Row(const PrefillWork& work, int row) const {
    constexpr float kLog2eOverRoot =
        1.4426950408889634f * (kDim == 128 ? 0.08838834764831845f : 0.125f);
    if (row < 0) return {1.0f, work.Limit(row, p_.group), -1, 0};
    const int64_t index = work.Index(row, p_.group, p_.num_heads);
    return {p_.scale_q[index] * kLog2eOverRoot, work.Limit(row, p_.group),
            static_cast<int32_t>(index), 0};
  }
  // Of consumer `i`.
  __device__ __forceinline__ void Describe(const PrefillWork& work, int i,
                                           PrefillPiece& piece) const {
    if (i == 0) piece.tiles = work.Tiles(work.first_row, kPrefillRows, p_.group);
    const int first = work.first_row + 64 * i;
    const int32_t tiles = work.Tiles(first, 64, p_.group);
    piece.group_tiles[i] = tiles;
    piece.masked_tiles[i] = tiles - work.Limit(first, p_.group) / kPrefillKeys;
  }

 protected:
  const AttnPrefillParams& p_;
  Shared& shared_;
};

}  // namespace fireq::sm90
