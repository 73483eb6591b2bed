#include "fireq/backends/sm90/backend/prefill_of_batch.h"

#include <cstddef>
#include <numeric>
#include <span>

namespace fireq::sm90 {

AttnPrefillPlan PlanPrefill(const BatchView& batch, int64_t first_sequence, int64_t num_heads,
                            int64_t kv_heads, int64_t head_dim, int64_t num_sms,
                            const PrefillUnpackPolicy& policy) {
  const auto first = static_cast<size_t>(first_sequence);
  const std::span query_lens(batch.query_lens);
  AttnPrefillPlan plan =
      MakeAttnPrefillPlan(query_lens.subspan(first), std::span(batch.context_lens).subspan(first),
                          num_heads, kv_heads, head_dim, num_sms, policy);
  const auto in_front = query_lens.first(first);
  const int32_t first_token = std::accumulate(in_front.begin(), in_front.end(), 0);
  for (AttnPrefillItem& item : plan.items) {
    item.sequence += static_cast<int32_t>(first);
    item.first_token += first_token;
  }
  for (AttnPrefillTile& tile : plan.tiles) tile.sequence += static_cast<int32_t>(first);
  return plan;
}

}  // namespace fireq::sm90
