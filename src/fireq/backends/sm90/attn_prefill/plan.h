// How prefill attention is cut into tiles and dealt to the CTAs: pure host arithmetic.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fireq/backends/sm90/attn_prefill/params.h"

namespace fireq::sm90 {

inline constexpr int kPrefillRows = 192;  // query rows of a CTA: 64 a consumer warpgroup

// When the step's pages are unpacked once, in front of attention, instead of by every CTA that
// visits them. It is a matter of time alone: the bits are the same.
struct PrefillUnpackPolicy {
  // The pass costs what unpacking a tile in so many visits does: eight with a workspace that the L2
  // holds, fourteen with one of 500 MB.
  double min_visits = 10.0;
  int64_t workspace_limit = int64_t{288} << 20;  // bytes
};

struct AttnPrefillPlan {
  int head_dim = 0;
  int ctas = 0;
  // Longest first; CTA c takes item-and-head number k of its turn in a snake (PrefillTurn), so
  // every CTA gets nearly the same sum.
  std::vector<AttnPrefillItem> items;
  // What the pass in front of attention unpacks; none: attention does it.
  std::vector<AttnPrefillTile> tiles;
  int64_t workspace_bytes = 0;  // that the tiles of all KV heads take
};

// The k-th piece of work of CTA `cta` of `ctas`: there and back again over work sorted by length.
constexpr int64_t PrefillTurn(int64_t k, int64_t cta, int64_t ctas) {
  return k * ctas + (k % 2 == 0 ? cta : ctas - 1 - cta);
}

// Key tiles (pages) that the rows of `item` attend to; its cost.
int64_t PrefillKeyTiles(int64_t tile, int64_t group, int64_t query_len, int64_t context_len);

// Throws kUnsupported (head_dim other than 64 and 128) and kShapeMismatch with the values.
AttnPrefillPlan MakeAttnPrefillPlan(std::span<const int32_t> query_len,
                                    std::span<const int32_t> context_len, int64_t num_heads,
                                    int64_t kv_heads, int64_t head_dim, int64_t num_sms,
                                    const PrefillUnpackPolicy& policy = {});

}  // namespace fireq::sm90
