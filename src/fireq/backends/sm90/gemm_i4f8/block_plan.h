// How attention of one sequence is spread over the CTAs of a chain of blocks: pure host arithmetic.
#pragma once

#include <cstdint>
#include <optional>

#include "fireq/backends/sm90/gemm_i4f8/plan.h"

namespace fireq::sm90 {

inline constexpr int kMaxBlocks = 9;  // of a launch: what a kernel may be told
// Links of a block, in order.
inline constexpr int kAttentionPlace = 0, kOPlace = 1, kGateUpPlace = 2, kDownPlace = 3,
                     kQkvPlace = 4;
inline constexpr int kBlockHeadDim = 128;
inline constexpr int kBlockMostHeads = 40;   // of queries: o takes no more values
inline constexpr int kBlockMostRows = 8;     // query heads a KV head
inline constexpr int kBlockSlots = 2;        // pages a CTA has at most
inline constexpr int kBlockMostPages = 64;   // of a sequence: eight threads each
inline constexpr int kBlockItems = 8;        // of outputs, four values each, that a CTA has
inline constexpr int kBlockMostItems = 256;  // of a head

// What goes from CTA to CTA as words (words.cuh), of an even block or of an odd one: where outputs
// of QKV, o, gate and up, down, and of attention begin, for the largest that a chain's links may
// have.
inline constexpr int kQkvWords = 0;
inline constexpr int kOWords = kQkvWords + 3 * kBlockMostHeads * kBlockHeadDim / 2;
inline constexpr int kHiddenWords = kOWords + kBlockMostHeads * kBlockHeadDim / 2;
inline constexpr int kDownWords = kHiddenWords + 112 * kBlockHeadDim / 2;
inline constexpr int kAttentionWords = kDownWords + kBlockMostHeads * kBlockHeadDim / 2;
inline constexpr int kBlockWords = kAttentionWords + kBlockMostHeads * kBlockHeadDim / 2;

struct BlockShape {
  int64_t num_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_pages = 0;  // of the sequence, as long as the launch is repeated
};

// Neighbouring CTAs share a KV head's pages. An item of outputs is of two rows and two columns.
struct BlockSpread {
  int ctas;          // of a KV head
  int column_shift;  // of pairs of rows there are 1, 2 or 4
  int items() const { return 64 << column_shift; }
};

int BlockClusters(const GemmDevice& device);  // of kChainCluster CTAs
// Empty where attention is a launch of its own: other heads, too many pages.
std::optional<BlockSpread> SpreadBlockHeads(const BlockShape& shape, const GemmDevice& device);
// What a linear in place `place` of a block must be to be a link. Who adds to the residual stream
// must have written what it adds to, so that the first CTA of a pair has the beginning of its tile.
// That is so where a tile has two steps.
bool BlockLinkAddsToItsOwn(int place, int64_t k);
// And there must be words for its outputs. Those of gate and up may reach into
// down's: down is no link then, its K is too long.
bool BlockLinkHasWords(int place, int64_t outputs);

}  // namespace fireq::sm90
