// Attention over a paged cache in double precision, as the served arithmetic defines it, and random
// cases for it: what every backend's attention is compared with.
#pragma once

#include <cstdint>
#include <vector>

#include "fireq/formats/kv_page.h"

namespace fireq::testing {

// One step's attention on the host; the fields are those of ops' AttentionArgs and BatchView.
struct AttentionCase {
  KvPageLayout layout;
  int num_heads = 0;
  std::vector<int32_t> query_start;  // [S + 1]
  std::vector<int32_t> context_len;  // [S], the step's own tokens included
  int max_pages = 0;
  std::vector<int32_t> page_table;  // [S, max_pages]; entries past the context are -1
  std::vector<uint8_t> pages;       // [num_pages, page_bytes]
  std::vector<uint8_t> q;           // E4M3 [T, H, Dh]
  std::vector<float> q_scale;       // [T, H]

  int num_sequences() const { return static_cast<int>(context_len.size()); }
  int num_tokens() const { return query_start.back(); }
};

struct AttentionShape {
  std::vector<int32_t> query_len;    // [S]
  std::vector<int32_t> context_len;  // [S] >= query_len, or 0
  int num_heads = 0;
  KvPageLayout layout;
};

// Random Q, K and V (normal, with outlier channels in K and an offset, so that zero points matter);
// pages handed out in random order from a pool with spare pages. Every byte that the step may not
// read is 0xFF (NaN scales).
AttentionCase MakeAttentionCase(const AttentionShape& shape, uint32_t seed);

enum class ProbRounding {
  kE4M3,  // the served arithmetic
  kNone,
};

// out [T, H, Dh], not rounded. Row i of a sequence sees the keys 0 .. context - query_len + i; a
// row that sees none is zero.
std::vector<double> ReferenceAttention(const AttentionCase& c, ProbRounding rounding);

// ||actual - expected|| / ||expected||; NaN if anything is, 0 where both are empty.
double RelativeError(const std::vector<float>& actual, const std::vector<double>& expected);

}  // namespace fireq::testing
