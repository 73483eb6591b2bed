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
