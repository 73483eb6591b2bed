// How prefill attention is cut into tiles and dealt to the CTAs: pure host arithmetic.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fireq/backends/sm90/attn_prefill/params.h"

namespace fireq::sm90 {

inline constexpr int kPrefillRows = 192;  // query rows of a CTA: 64 a consumer warpgroup

// When the step's pages are unpacked once, by CTAs for each other, instead of by every CTA that
// visits them. It is a matter of time alone.
struct PrefillUnpackPolicy {
  double min_visits = 5.0;  // of a tile, on average; measured: NOTES.md, "Ready tiles"
  // Bytes of device memory. The largest that pays is 16 prompts of 4096 tokens with 32 KV heads;
  // a step of 16,896 tokens with 8 takes 36 MB.
  int64_t workspace_limit = int64_t{544} << 20;
};

struct AttnPrefillPlan {
  int head_dim = 0;
  int ctas = 0;
  std::vector<AttnPrefillItem> items;  // in the order of the sequences
  // Item and KV head, items' numbers times KV heads plus head, in the order in which CTAs do them.
  // CTA c's begin at pieces[c] and end where the next's begin, which the first ctas + 1 numbers
  // are. The last, which no CTA is dealt, are done by whoever is free.
  std::vector<int32_t> pieces;
  int32_t undealt = 0;  // of them
  // What is unpacked once, in about the order in which it is wanted; none: every CTA unpacks what
  // it visits.
  std::vector<AttnPrefillTile> tiles;
  // How many tiles behind the first of the sequence and head that a CTA attends to (counted as if
  // each had its tiles together) the last is that it unpacks by then.
  int32_t lead = 0;
  int64_t workspace_bytes = 0;  // that the tiles of all KV heads take
  int64_t progress_bytes = 0;   // that what is known of them takes

  std::span<const int32_t> PiecesOf(int cta) const {
    const auto begin = static_cast<size_t>(pieces[static_cast<size_t>(cta)]);
    const auto end = static_cast<size_t>(pieces[static_cast<size_t>(cta) + 1]);
    return std::span(pieces).subspan(begin, end - begin);
  }
};

// Steps whose plans are to be had.
struct PrefillLimits {
  int64_t max_tokens = 0;
  int64_t max_sequences = 0;
  int64_t max_context = 0;
  int64_t num_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t num_sms = 0;
};
// Bytes of device memory that their plans take, at most.
struct PrefillMemory {
  int64_t workspace = 0;  // as AttnPrefillPlan::workspace_bytes
  int64_t progress = 0;   // as AttnPrefillPlan::progress_bytes
  int64_t lists = 0;      // items, pieces and tiles
};
PrefillMemory MaxPrefillMemory(const PrefillLimits& limits, const PrefillUnpackPolicy& policy = {});

// Pages that an item's rows attend to, of `group` heads a KV head.
int64_t PrefillKeyPages(const AttnPrefillItem& item, int64_t group);

// Throws kUnsupported (head_dim other than 64 and 128) and kShapeMismatch with the values.
AttnPrefillPlan MakeAttnPrefillPlan(std::span<const int32_t> query_len,
                                    std::span<const int32_t> context_len, int64_t num_heads,
                                    int64_t kv_heads, int64_t head_dim, int64_t num_sms,
                                    const PrefillUnpackPolicy& policy = {});

}  // namespace fireq::sm90
