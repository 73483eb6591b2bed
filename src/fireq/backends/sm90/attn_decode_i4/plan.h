// How decode attention is split over the GPU: pure host arithmetic.
#pragma once

#include <cstdint>

namespace fireq::sm90 {

inline constexpr int kDecodeMaxStages = 32;    // barriers
inline constexpr int kDecodeMaxRows = 16;      // query rows a tile at most
inline constexpr int kDecodeMaxCluster = 8;    // CTAs
inline constexpr int kDecodeTokenBytes = 128;  // what turning a token's codes of V around takes
inline constexpr int kDecodePadding = 4;       // floats behind a row of the combine buffer

// Pages that a segment costs at least, where a CTA has many: the finishing warp takes 6.6 us for a
// part, a page 0.8 us of a CTA's time while all read. Too many rather than too few: CTAs of short
// segments then end early and leave the memory to the others, which it binds.
inline constexpr int kDecodeLeastCost = 8;
// Sequences of lists (lists.h): what they cost besides their pages is counted in 16 bits.
inline constexpr int kDecodeMostListed = 0xFFFF / (kDecodeLeastCost - 1);

// Of a CTA for tiles of `rows` query rows: warps that compute (one more loads).
constexpr int DecodeWarps(int rows) { return rows == 8 ? 4 : 8; }
constexpr int DecodeCtasPerSm(int rows) { return rows == 8 ? 2 : 1; }
// Threads of a CTA: with eight warps that compute, the loading one is filled up to a warpgroup, for
// setmaxnreg moves registers between warpgroups.
constexpr int DecodeThreads(int rows, bool sixth_warp) {
  return DecodeWarps(rows) * 32 + (DecodeWarps(rows) == 8 ? 128 : (sixth_warp ? 64 : 32));
}

// Offsets in dynamic shared memory, in bytes.
struct AttnDecodeShared {
  int32_t parts = 0;       // f32 [cluster - 1][rows][Dh], of the cluster's other CTAs
  int32_t part_stats = 0;  // float2 [cluster - 1][rows]: maximum, sum
  int32_t sums = 0;   // f32 [1, or 2 if a warp finishes][DecodeWarps][8 rows][Dh + kDecodePadding]
  int32_t stats = 0;  // float2 [1 or 2][DecodeWarps][kDecodeMaxRows]: maximum, sum
  int32_t barriers =
      0;               // u64 [2][kDecodeMaxStages], one for `parts`, one unused, [2][2] for `sums`
  int32_t older = 0;   // u64 [kDecodeMaxStages] where tokens are written
  int32_t codes = 0;   // u8 [kDecodeTokenBytes] there
  int32_t table = 0;   // i32 [32 DecodeWarps] where segments are cut: first pages of a sequence
  int32_t flag = 0;    // i32 [4], then the DecodePiece
  int32_t prefix = 0;  // i32 [S + 1], unless a warp finishes
  int32_t bytes = 0;
};

struct AttnDecodePlan {
  int head_dim = 0;
  int rows = 0;       // query rows a tile: 8 or 16
  int row_tiles = 0;  // tiles a sequence and KV head
  int ctas = 0;
  // A CTA has many segments: lists say which, and a warp finishes them while the others compute on.
  bool finishes = false;
  bool writes_tokens = false;  // queries are made and the step's tokens written by the kernel
  int stages = 0;
  int cluster = 1;  // CTAs; its parts of a segment are added in shared memory
  int cuts = 0;     // parts of a segment at most, whole clusters; 0: there are fewer CTAs
  AttnDecodeShared shared;
  int64_t workspace_bytes = 0;
  int64_t lists_bytes = 0;  // where a warp finishes, of DecodeLists; too few if max_pages is 0
};

struct AttnDecodeShape {
  int64_t num_sequences = 0;
  int64_t num_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_query_len = 1;
  int64_t num_sms = 0;
  int64_t max_pages = 0;  // of a sequence at most, as long as the plan is used; 0: not known
  bool writes_tokens = false;
};

// Whether the kernel can do rope_kv_write's work in the same launch: one token a sequence, one tile
// of query rows, and nothing between the rows' lanes but their maximum (a norm's sum of squares is
// to be the same bits in every kernel). Not where a CTA has many segments: it loses there
// (NOTES.md).
bool DecodeCanWriteTokens(const AttnDecodeShape& shape, bool qk_norm, bool hadamard);

// Throws kUnsupported (head_dim other than 64 and 128, more sequences than the shared memory
// holds) and kShapeMismatch (H no multiple of Hk) with the values.
AttnDecodePlan MakeAttnDecodePlan(const AttnDecodeShape& shape);

}  // namespace fireq::sm90
