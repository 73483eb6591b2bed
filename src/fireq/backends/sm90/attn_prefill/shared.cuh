// What the warpgroups of a prefill CTA share: the ring of tiles, where the producer unpacks also
// that of packed pages, and the pieces of work, which the producer hands on.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/kernel_params.h"
#include "fireq/backends/sm90/attn_prefill/plan.h"
#include "fireq/backends/sm90/attn_prefill/tile.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/ring.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

inline constexpr int kPrefillConsumers = kPrefillRows / 64;  // warpgroups
inline constexpr int kPrefillThreads = 128 * (kPrefillConsumers + 1);

// What the producer tells the consumers about a row of a piece of work.
struct alignas(16) PrefillRow {
  float scale;    // scale_q log2(e) / sqrt(Dh)
  int32_t limit;  // keys that the row sees
  int32_t index;  // row of [T, H]; -1: none
  int32_t unused;
};
// And about the piece.
struct PrefillPiece {
  int32_t tiles;                            // of keys; -1: no more work
  int32_t group_tiles[kPrefillConsumers];   // of each warpgroup
  int32_t masked_tiles[kPrefillConsumers];  // the last, seen in part by some row
  int32_t fresh;  // not 0: nothing may follow from the piece that the CTA had before
};

// Where a CTA's tiles come from: unpacked by its producer, or copied from the workspace, into which
// all CTAs' producers unpack.
enum class PrefillSource { kPages, kTiles };

// One piece of work: kPrefillRows rows of a sequence and KV head.
struct PrefillWork {
  int32_t sequence;
  int32_t kv_head;
  int32_t first_row;  // of kPrefillRows, in query-major order over the group's heads; below 0: none
  int32_t rows;       // of the sequence: query_len * group
  int32_t first_token;  // of the sequence's queries in the step
  int32_t prefix;       // keys that query 0 sees besides its own
  int32_t first_tile;   // of the sequence's in the workspace

  // Keys that row `row` sees; rows before the first see what that does.
  __device__ __forceinline__ int32_t Limit(int32_t row, const PrefillGroup& group) const {
    return prefix + 1 + group.Query(max(row, 0));
  }
  // Row of [T, H] for row `row`, which is there.
  __device__ __forceinline__ int32_t Index(int32_t row, const PrefillGroup& group,
                                           int32_t num_heads) const {
    const int32_t query = group.Query(row);
    return (first_token + query) * num_heads + kv_head * group.size + row - query * group.size;
  }
  // Keys that any of the rows first .. first + count - 1 sees; 0 where there are none.
  __device__ __forceinline__ int32_t Keys(int32_t first, int32_t count,
                                          const PrefillGroup& group) const {
    return first + count <= 0 ? 0 : max(0, Limit(first + count - 1, group));
  }
  __device__ __forceinline__ int32_t Tiles(int32_t first, int32_t count,
                                           const PrefillGroup& group) const {
    return (Keys(first, count, group) + kPrefillKeys - 1) / kPrefillKeys;
  }
};

// What consumer `i` must know of a piece; of all rows the last consumer's see the most keys.
__device__ __forceinline__ void DescribePiece(const PrefillWork& work, const PrefillGroup& group,
                                              bool fresh, int32_t i, PrefillPiece& piece) {
  const int32_t first = work.first_row + 64 * i;
  const int32_t tiles = work.Tiles(first, 64, group);
  piece.group_tiles[i] = tiles;
  piece.masked_tiles[i] = tiles - work.Limit(first, group) / kPrefillKeys;
  if (i < kPrefillConsumers - 1) return;
  piece.tiles = tiles;
  piece.fresh = fresh;
}

// And what they must know of row `row` of the sequence. The scale of one that is not there is 0.
template <int kDim>
__device__ __forceinline__ PrefillRow DescribeRow(const PrefillWork& work,
                                                  const AttnPrefillKernelParams& p, int32_t row,
                                                  float scale_q) {
  constexpr float kLog2eOverRoot =
      1.4426950408889634f * (kDim == 128 ? 0.08838834764831845f : 0.125f);
  return {scale_q * kLog2eOverRoot, work.Limit(row, p.group),
          row < 0 ? -1 : work.Index(row, p.group, p.num_heads), 0};
}
__device__ __forceinline__ float LoadRowScale(const PrefillWork& work,
                                              const AttnPrefillKernelParams& p, int32_t row) {
  return row < 0 ? 0.0f : p.scale_q[work.Index(row, p.group, p.num_heads)];
}

// What a consumer lane knows of its two rows.
struct alignas(16) PrefillLane {
  float scale[2];  // of PrefillRow
  float unit[2];   // u
};

// Each producer warp's piece of work.
struct PrefillWarpWork : PrefillWork {
  int32_t context;      // keys of the sequence
  const uint8_t* half;  // of page 0: K's codes of the KV head, or V's
  bool fresh;           // of PrefillPiece
};

// What a CTA's shared memory holds by where its tiles come from, and how its registers are split:
// 512 x 128, more hangs.
template <int kDim, PrefillSource kSource>
struct PrefillRing;

// Four warps unpack.
template <int kDim>
struct PrefillRing<kDim, PrefillSource::kPages> {
  static constexpr int kStages = 3;  // tiles
  static constexpr int kFillers = 4;
  static constexpr int kFirstAnnouncer = 0;
  static constexpr int kProducerRegisters = 56;
  static constexpr int kConsumerRegisters = 152;
  static constexpr int kRawPages = 2;  // packed halves of pages on their way, a producer warp
  // Packed codes of K or of V, then the scales and zero points of both, as the page has them.
  static constexpr int kRawScales = kTokensPerPage * kDim / 2;
  static constexpr int kRawBytes = kRawScales + 6 * kTokensPerPage;
  alignas(128) uint8_t raw[4][kRawPages][kRawBytes];
  Mbarrier raw_full[4][kRawPages];
  // Where pieces are that the CTA takes behind those that it was dealt: the first warp takes them,
  // the others read that before it takes the fourth behind.
  int32_t taken[4];
  Mbarrier taken_full[4];
  struct Halves {};
};

// One warp copies tiles, the others hand pieces on and unpack.
template <int kDim>
struct PrefillRing<kDim, PrefillSource::kTiles> {
  static constexpr int kStages = 3;
  static constexpr int kFillers = 1;
  static constexpr int kFirstAnnouncer = 1;
  static constexpr int kProducerRegisters = 56;
  static constexpr int kConsumerRegisters = 152;
  static constexpr int kPackedHalves = 2;  // on their way, a warp
  // K or V of a page as the page has it, with the scales and zero points of both.
  struct PackedHalf {
    alignas(128) uint8_t codes[kTokensPerPage * kDim / 2];
    uint8_t scales[6 * kTokensPerPage];
  };
  // A warp's: K or V of a page on its way to the workspace, of the scales its factors, and the
  // next.
  struct Half {
    alignas(128) uint8_t codes[kTokensPerPage * kDim];
    PrefillScales scales;
    PackedHalf packed[kPackedHalves];
    uint32_t taken[kPackedHalves];        // their numbers, four a tile of AttnPrefillPlan::tiles
    AttnPrefillTile tile[kPackedHalves];  // of which they are
    Mbarrier full[kPackedHalves];
  };
  using Halves = Half[3];
  // So many of AttnPrefillPlan::tiles are to be unpacked by now: more with each piece of work.
  volatile uint32_t wanted;
};

template <int kDim, PrefillSource kSource>
struct PrefillShared : PrefillRing<kDim, kSource> {
  using Ring = PrefillRing<kDim, kSource>;
  using Tile = PrefillTile<kDim>;
  static constexpr PrefillSource kTilesFrom = kSource;
  static constexpr int kStages = Ring::kStages;
  static constexpr int kAnnouncers = 4 - Ring::kFirstAnnouncer;  // warps
  static_assert(128 * Ring::kProducerRegisters +
                    128 * kPrefillConsumers * Ring::kConsumerRegisters <=
                65536);
  alignas(1024) typename Tile::Keys k[kStages];
  // E4M3 [64 rows][Dh] a consumer, swizzled as K, of this piece of work and of the next.
  alignas(1024) uint8_t q[2][kPrefillConsumers][64 * kDim];
  alignas(512) typename Tile::Values v[kStages];
  PrefillRow rows[2][kPrefillRows];
  PrefillPiece piece[2];
  PrefillLane lanes[kPrefillConsumers][128];
  float2 sums[kPrefillConsumers][128];  // a lane's part of sum 2^(x - u)
  // By the parity of a tile, counted from the piece's end: that number, once a warp of the group
  // has found its units too low in it; 0 before.
  int32_t low_units[kPrefillConsumers][2];
  alignas(128) typename Tile::Scales scales[kStages];
  PrefillWarpWork work[4];
  Mbarrier full[kStages];
  Mbarrier empty[kStages];
  Mbarrier piece_full[2];
  Mbarrier queries_full[2];
  Mbarrier piece_empty[2];
  typename Ring::Halves halves;  // of pages, that the producer unpacks for all
};

// The thread's number, read anew each time: what follows from it would be kept in registers.
__device__ __forceinline__ uint32_t PrefillThread() {
  uint32_t thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// By each warp that announces: that there is no piece `turn`. One of them `says` so.
template <class Shared>
__device__ __forceinline__ void AnnouncePrefillEnd(uint32_t turn, bool says, Shared& shared) {
  const uint32_t buffer = turn & 1;
  MbarrierWait(&shared.piece_empty[buffer], ~(turn >> 1) & 1);
  if (PrefillThread() % 32 == 0) {
    if (says) shared.piece[buffer].tiles = -1;
    MbarrierArrive(&shared.piece_full[buffer]);
  }
}

// By one thread: begins to copy a piece's rows of Q, which are a box, when the consumers have left
// `buffer`.
template <class Shared>
__device__ __forceinline__ void LoadQueryBox(const PrefillWork& work,
                                             const AttnPrefillKernelParams& p, uint32_t buffer,
                                             Shared& shared) {
  FenceProxyAsync();  // behind their output there
  Mbarrier* full = &shared.queries_full[buffer];
  MbarrierArriveExpectTx(full, sizeof(shared.q[buffer]));
  const int32_t row = work.first_row;  // whole queries in front of the sequence's first or behind
  const int32_t query = row < 0 ? -p.group.Query(-row) : p.group.Query(row);
  TmaLoad3D(shared.q[buffer][0], &p.queries, 0, work.kv_head * p.group.size,
            work.first_token + query, full, kEvictFirst);
}

// The piece of work at place `at` of AttnPrefillPlan::pieces.
__device__ __forceinline__ void LoadPrefillWork(const AttnPrefillKernelParams& p, int32_t at,
                                                PrefillWork& work) {
  const uint32_t number = static_cast<uint32_t>(__ldg(p.pieces + at));
  const uint32_t heads = static_cast<uint32_t>(p.kv_heads);
  const int4* item = reinterpret_cast<const int4*>(p.items + number / heads);
  const int4 head = __ldg(item);
  const int2 more = __ldg(reinterpret_cast<const int2*>(item + 1));
  work.sequence = head.x;
  work.kv_head = static_cast<int32_t>(number % heads);
  work.first_row = head.y;
  work.first_token = head.z;
  work.rows = head.w * p.group.size;
  work.prefix = more.x;
  work.first_tile = more.y;
}

// Where piece `turn` of those that the CTA was dealt is; `more` counts the pieces behind them.
struct DealtPiece {
  int32_t at;
  int32_t more;  // below 0: it was dealt

  __device__ __forceinline__ DealtPiece(const AttnPrefillKernelParams& p, int32_t turn) {
    uint32_t cta;  // read anew: what follows from it would be kept in a register
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(cta));
    at = __ldg(p.pieces + cta) + turn;
    more = at - __ldg(p.pieces + cta + 1);
  }
};

// By a warp: where the next piece that no CTA was dealt is; -1 when there is none.
__device__ __forceinline__ int32_t TakePiece(const AttnPrefillKernelParams& p) {
  if (p.undealt == 0) return -1;
  uint32_t taken = 0;
  if (ElectOne()) taken = atomicAdd(p.progress + kPrefillPieces, 1u) + 1;
  taken = __reduce_max_sync(0xFFFFFFFFu, taken) - 1;
  return taken < p.undealt ? __ldg(p.pieces + gridDim.x) + static_cast<int32_t>(taken) : -1;
}

// By a warp: that it takes nothing any more, neither pieces nor halves of pages. The grid's last of
// `warps` a CTA leaves all numbers as they were found.
__device__ __forceinline__ void FinishPrefill(const AttnPrefillKernelParams& p, uint32_t warps) {
  if (p.halves == 0 && p.undealt == 0) return;
  uint32_t before = 0;
  if (ElectOne()) before = AtomicAddAcqRel(p.progress + kPrefillDone, 1u);
  before = __reduce_max_sync(0xFFFFFFFFu, before);
  __syncwarp();
  if (before + 1 < warps * gridDim.x) return;
  const uint32_t count = kPrefillReady + p.halves / kPrefillHalves;
  for (uint32_t i = PrefillThread() % 32; i < count; i += 32) p.progress[i] = 0;
}

}  // namespace fireq::sm90
