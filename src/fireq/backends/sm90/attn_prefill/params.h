// What the prefill attention kernel is told: pointers and sizes, passed by value.
#pragma once

#include <cstdint>

#include "fireq/formats/bf16.h"

namespace fireq::sm90 {

// kPrefillRows rows of one sequence: row i is query i / group, head i % group of a KV head's group
// of H / Hk query heads. The sequence's last row is an item's last, so its first item's rows may
// begin below 0, where there are none: that item sees the fewest keys.
struct AttnPrefillItem {
  int32_t sequence = 0;
  int32_t first_row = 0;
  int32_t first_token = 0;  // of the sequence's queries in the step
  int32_t query_len = 0;
  int32_t prefix = 0;      // keys in front of query 0
  int32_t first_tile = 0;  // of the sequence's in the workspace, if there is one
  int32_t unused[2] = {};  // 32 bytes: one piece is two loads
};

// 128 keys of a sequence and KV head, to be unpacked once for all that visit them.
struct AttnPrefillTile {
  int32_t sequence = 0;
  int32_t first_token = 0;  // of the sequence's context
  int32_t context = 0;      // tokens
  int32_t number = 0;  // in the workspace: that of the sequence's tile times KV heads plus head
};

// Everything on the device.
struct AttnPrefillParams {
  const uint8_t* q = nullptr;              // e4m3 [T, H, Dh]
  const float* scale_q = nullptr;          // f32 [T, H]
  const uint8_t* pages = nullptr;          // KvPageLayout pages of one layer
  const int32_t* page_table = nullptr;     // i32 [S, max_pages]
  const AttnPrefillItem* items = nullptr;  // AttnPrefillPlan::items
  const int32_t* pieces = nullptr;         // AttnPrefillPlan::pieces
  const AttnPrefillTile* tiles = nullptr;  // AttnPrefillPlan::tiles
  void* workspace = nullptr;               // AttnPrefillPlan::workspace_bytes, of any content
  uint32_t* progress = nullptr;            // AttnPrefillPlan::progress_bytes, zero before and after
  bf16_t* out = nullptr;                   // bf16 [T, H, Dh]
  int32_t num_heads = 0;                   // H
  int32_t kv_heads = 0;                    // Hk
  // Where the first of 64 rows sees no more keys than this, the scores of all 64 rows' first keys
  // are exact sums. 0: nowhere, so that a row's bits do not depend on which rows are beside it.
  int32_t exact_limit = 32;
  int32_t max_pages = 0;
};

}  // namespace fireq::sm90
