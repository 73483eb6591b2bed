// What a chain of blocks is told of attention.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/gemm_i4f8/block_plan.h"
#include "fireq/backends/sm90/rope_kv_write/launch.h"

namespace fireq::sm90 {

// Of one layer.
struct BlockAttentionParams {
  RopeKvWriteParams rope;  // but for qkv and q
  bf16_t* out;             // as well as words
};

// What goes from CTA to CTA as words (words.cuh), of an even block or of an odd one: where outputs
// of QKV, o, gate and up, down, and of attention begin, for the largest that a chain's links may
// have.
inline constexpr int kQkvWords = 0;
inline constexpr int kOWords = kQkvWords + 3 * kBlockMostHeads * kBlockHeadDim / 2;
inline constexpr int kHiddenWords = kOWords + kBlockMostHeads * kBlockHeadDim / 2;
inline constexpr int kDownWords = kHiddenWords + 112 * kBlockHeadDim / 2;
inline constexpr int kAttentionWords = kDownWords + kBlockMostHeads * kBlockHeadDim / 2;
inline constexpr int kBlockWords = kAttentionWords + kBlockMostHeads * kBlockHeadDim / 2;

// Of all: how heads are spread.
struct BlockHeads {
  const int32_t* query_start;
  const int32_t* context_len;
  uint4* parts;  // [Hk][kBlockSlots * ctas][items][2]
  int kv_heads;
  int group;         // H / Hk
  int ctas;          // of a KV head
  int column_shift;  // of pairs of rows: 1, 2 or 4
};

}  // namespace fireq::sm90
