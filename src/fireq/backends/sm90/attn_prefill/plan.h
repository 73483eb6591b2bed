// How prefill attention is cut into tiles and dealt to the CTAs: pure host arithmetic.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fireq/backends/sm90/attn_prefill/params.h"

namespace fireq::sm90 {

inline constexpr int kPrefillRows = 192;    // query rows of a CTA: 64 a consumer warpgroup
inline constexpr int kPrefillKeys = 128;    // of a tile: two pages
inline constexpr int kPrefillStages = 3;    // unpacked tiles
inline constexpr int kPrefillRawPages = 2;  // packed halves of pages on their way, a producer warp

struct AttnPrefillPlan {
  int head_dim = 0;
  int ctas = 0;
  // Longest first; CTA c takes item-and-head number k of its turn in a snake (PrefillTurn), so
  // every CTA gets nearly the same sum.
  std::vector<AttnPrefillItem> items;
};

// The k-th piece of work of CTA `cta` of `ctas`: there and back again over work sorted by length.
constexpr int64_t PrefillTurn(int64_t k, int64_t cta, int64_t ctas) {
  return k * ctas + (k % 2 == 0 ? cta : ctas - 1 - cta);
}

// Items of a step at most: every sequence may have a tile that it does not fill.
int64_t MaxPrefillItems(int64_t max_tokens, int64_t max_sequences, int64_t group);

// Key tiles (pages) that the rows of `item` attend to; its cost.
int64_t PrefillKeyTiles(int64_t tile, int64_t group, int64_t query_len, int64_t context_len);

// Throws kUnsupported (head_dim other than 64 and 128) and kShapeMismatch with the values.
AttnPrefillPlan MakeAttnPrefillPlan(std::span<const int32_t> query_len,
                                    std::span<const int32_t> context_len, int64_t num_heads,
                                    int64_t kv_heads, int64_t head_dim, int64_t num_sms);

}  // namespace fireq::sm90
