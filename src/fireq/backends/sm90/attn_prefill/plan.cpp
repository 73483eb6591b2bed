#include "fireq/backends/sm90/attn_prefill/plan.h"

#include <algorithm>

#include "fireq/base/error.h"
#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

int64_t MaxPrefillItems(int64_t max_tokens, int64_t max_sequences, int64_t group) {
  return max_tokens * group / kPrefillRows + max_sequences;
}

int64_t PrefillKeyTiles(int64_t tile, int64_t group, int64_t query_len, int64_t context_len) {
  const int64_t last_row = std::min((tile + 1) * kPrefillRows, query_len * group) - 1;
  const int64_t keys = context_len - query_len + last_row / group + 1;
  return std::max<int64_t>(0, CeilDiv<int64_t>(keys, kTokensPerPage));
}

AttnPrefillPlan MakeAttnPrefillPlan(std::span<const int32_t> query_len,
                                    std::span<const int32_t> context_len, int64_t num_heads,
                                    int64_t kv_heads, int64_t head_dim, int64_t num_sms) {
  FIREQ_CHECK(head_dim == 64 || head_dim == 128, kUnsupported, "prefill attention: head_dim ",
              head_dim, " is neither 64 nor 128");
  FIREQ_CHECK(kv_heads > 0 && num_heads % kv_heads == 0, kShapeMismatch,
              "prefill attention: ", num_heads, " heads over ", kv_heads, " KV heads");
  FIREQ_CHECK(query_len.size() == context_len.size() && num_sms > 0, kShapeMismatch,
              "prefill attention: ", query_len.size(), " query and ", context_len.size(),
              " context lengths, SMs ", num_sms);
  AttnPrefillPlan plan;
  plan.head_dim = static_cast<int>(head_dim);
  const int64_t group = num_heads / kv_heads;
  int32_t first_token = 0;
  for (size_t s = 0; s < query_len.size(); ++s) {
    const int64_t tiles = CeilDiv<int64_t>(query_len[s] * group, kPrefillRows);
    for (int64_t t = 0; t < tiles; ++t) {
      plan.items.push_back({static_cast<int32_t>(s), static_cast<int32_t>(t), first_token,
                            query_len[s], context_len[s] - query_len[s]});
    }
    first_token += query_len[s];
  }
  const auto cost = [&](const AttnPrefillItem& item) {
    return PrefillKeyTiles(item.tile, group, query_len[item.sequence], context_len[item.sequence]);
  };
  std::stable_sort(
      plan.items.begin(), plan.items.end(),
      [&](const AttnPrefillItem& a, const AttnPrefillItem& b) { return cost(a) > cost(b); });
  plan.ctas = static_cast<int>(
      std::min<int64_t>(num_sms, static_cast<int64_t>(plan.items.size()) * kv_heads));
  return plan;
}

}  // namespace fireq::sm90
