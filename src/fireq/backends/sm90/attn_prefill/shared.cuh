// What the warpgroups of a prefill CTA share: the ring of packed pages, the ring of unpacked tiles,
// and the pieces of work, which the producer hands on.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/params.h"
#include "fireq/backends/sm90/attn_prefill/plan.h"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

inline constexpr int kPrefillPages = kPrefillKeys / kTokensPerPage;  // of a tile
inline constexpr int kPrefillConsumers = kPrefillRows / 64;          // warpgroups
inline constexpr int kPrefillThreads = 128 * (kPrefillConsumers + 1);

// What a key's score and probability are multiplied by, in the order of its page.
struct PrefillScales {
  float score[kTokensPerPage];  // s_k 2^9: codes enter the product as (q - z) 2^-9
  float value[kTokensPerPage];  // 256 s_v / r
  float log_r;                  // r: power of two >= |s_v| of the page
  float inverse_r;
  float unused[30];  // 128-byte multiples
};

// What the producer tells the consumers about a row of a piece of work.
struct PrefillRow {
  float scale;    // scale_q log2(e) / sqrt(Dh)
  int32_t limit;  // keys that the row sees
  int32_t index;  // row of [T, H]; -1: none
};
// And about the piece.
struct PrefillPiece {
  int32_t tiles;                            // of keys; -1: no more work
  int32_t group_tiles[kPrefillConsumers];   // of each warpgroup
  int32_t masked_tiles[kPrefillConsumers];  // the last, seen in part by some row
};

// One piece of work: kPrefillRows rows of a sequence and KV head.
struct PrefillWork {
  int32_t sequence;
  int32_t kv_head;
  int32_t first_row;    // of kPrefillRows, in query-major order over the group's heads
  int32_t rows;         // of the sequence: query_len * group
  int32_t first_token;  // of the sequence's queries in the step
  int32_t prefix;       // keys that query 0 sees besides its own

  // Keys that row `row` sees; rows past the last see what the last does.
  __device__ __forceinline__ int32_t Limit(int row, int group) const {
    return prefix + 1 + min(row, rows - 1) / group;
  }
  // Row of [T, H] for row `row`.
  __device__ __forceinline__ int64_t Index(int row, int group, int num_heads) const {
    return int64_t{first_token + row / group} * num_heads + kv_head * group + row % group;
  }
  // Keys that any of the rows first .. first + count - 1 sees; 0 where there are none.
  __device__ __forceinline__ int32_t Keys(int first, int count, int group) const {
    return first >= rows ? 0 : max(0, Limit(first + count - 1, group));
  }
  __device__ __forceinline__ int32_t Tiles(int first, int count, int group) const {
    return (Keys(first, count, group) + kPrefillKeys - 1) / kPrefillKeys;
  }
};

// What a consumer lane knows of its two rows.
struct alignas(16) PrefillLane {
  float scale[2];  // of PrefillRow
  float unit[2];   // u
};

template <int kDim>
struct PrefillShared {
  static constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
  // E4M3 [64 tokens][Dh] a page, K-major in the 128-byte (Dh 64: 64-byte) swizzle. Row n is token
  // KeyOfRow(n), so that a thread's columns of S are the k of its A fragment of P.
  alignas(1024) uint8_t k[kPrefillStages][kPrefillPages][kTokensPerPage * kDim];
  // E4M3 [64 rows][Dh] a consumer, swizzled as K, of this piece of work and of the next.
  alignas(1024) uint8_t q[2][kPrefillConsumers][64 * kDim];
  // E4M3 [Dh][64 tokens] a page in the 64-byte swizzle: V^T.
  alignas(512) uint8_t v[kPrefillStages][kPrefillPages][kDim * kTokensPerPage];
  PrefillRow rows[2][kPrefillRows];
  PrefillPiece piece[2];
  PrefillLane lanes[kPrefillConsumers][128];
  float2 sums[kPrefillConsumers][128];  // a lane's part of sum 2^(x - u)
  int4 places[kPrefillConsumers][128];  // limits, less 4 (lane % 4), and indices of its two rows
  // By the parity of a tile, counted from the piece's end: that number, once a warp of the group
  // has found its units too low in it; 0 before.
  int32_t low_units[kPrefillConsumers][2];
  alignas(128) PrefillScales scales[kPrefillStages][kPrefillPages];
  // Packed codes of K or of V, then the scales and zero points of both, as the page has them.
  static constexpr int kRawScales = kTokensPerPage * kDim / 2;
  static constexpr int kRawKeyZeros = kRawScales + 4 * kTokensPerPage;
  static constexpr int kRawBytes = kRawKeyZeros + 2 * kTokensPerPage;
  alignas(128) uint8_t raw[4][kPrefillRawPages][kRawBytes];
  // Each producer warp's piece of work.
  struct Work : PrefillWork {
    int32_t context;      // keys of the sequence
    const uint8_t* half;  // of page 0: K's codes of the KV head, or V's
  };
  Work work[4];
  Mbarrier full[kPrefillStages];
  Mbarrier empty[kPrefillStages];
  Mbarrier raw_full[4][kPrefillRawPages];
  Mbarrier piece_full[2];
  Mbarrier queries_full[2];
  Mbarrier piece_empty[2];
};

// Row of the K tile for token 16 b + 4 c + e: S's columns 8 j + 2 c + i then hold, for lane c, the
// four tokens 16 b + 4 c .. + 3 that lane c needs as bytes of P.
__device__ constexpr int RowOfKey(int token) {
  const int c = token >> 2 & 3;
  const int e = token & 3;
  return (token & ~15) + 2 * c + (e & 1) + 8 * (e >> 1);
}

// A position in a ring of kCount barriers.
template <int kCount>
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void Next() {
    if (++stage == kCount) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// The CTA's piece of work number `turn`; false when there is none.
__device__ __forceinline__ bool NextPrefillWork(const AttnPrefillParams& p, int32_t turn,
                                                PrefillWork& work) {
  uint32_t cta;  // read anew: what follows from it would be kept in a register
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(cta));
  const int64_t index = PrefillTurn(turn, cta, gridDim.x);
  if (index >= int64_t{p.num_items} * p.kv_heads) return false;
  const uint32_t number = static_cast<uint32_t>(index);  // fits: the host checks
  const uint32_t heads = static_cast<uint32_t>(p.kv_heads);
  const int4* item = reinterpret_cast<const int4*>(p.items + number / heads);
  const int4 head = __ldg(item);
  work.sequence = head.x;
  work.kv_head = static_cast<int32_t>(number % heads);
  work.first_row = head.y * kPrefillRows;
  work.first_token = head.z;
  work.rows = head.w * p.group;
  work.prefix = __ldg(&item[1].x);
  return true;
}

}  // namespace fireq::sm90
