#include "fireq/backends/sm90/attn_prefill/plan.h"

#include <algorithm>
#include <utility>

#include "fireq/backends/sm90/attn_prefill/tile.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

int64_t PrefillKeyTiles(int64_t tile, int64_t group, int64_t query_len, int64_t context_len) {
  const int64_t last_row = std::min((tile + 1) * kPrefillRows, query_len * group) - 1;
  const int64_t keys = context_len - query_len + last_row / group + 1;
  return std::max<int64_t>(0, CeilDiv<int64_t>(keys, kTokensPerPage));
}

namespace {

int64_t TileBytes(int64_t head_dim) {
  return head_dim == 128 ? sizeof(PrefillTile<128>) : sizeof(PrefillTile<64>);
}

// Gives the plan tiles where that is worth it: `items` are there, in the order of the sequences.
void AddTiles(std::span<const int32_t> context_len, int64_t group, int64_t kv_heads,
              const PrefillUnpackPolicy& policy, AttnPrefillPlan& plan) {
  int64_t visits = 0;
  std::vector<AttnPrefillTile> tiles;
  for (AttnPrefillItem& item : plan.items) {
    const int32_t context = context_len[item.sequence];
    if (item.tile == 0) {
      item.first_tile = static_cast<int32_t>(tiles.size());
      for (int32_t token = 0; token < context; token += kPrefillKeys)
        tiles.push_back({item.sequence, token, context});
    } else {
      item.first_tile = (&item - 1)->first_tile;
    }
    visits +=
        CeilDiv<int64_t>(PrefillKeyTiles(item.tile, group, item.query_len, context), kPrefillPages);
  }
  const int64_t bytes = std::ssize(tiles) * kv_heads * TileBytes(plan.head_dim);
  if (tiles.empty() || bytes > policy.workspace_limit ||
      static_cast<double>(visits) < policy.min_visits * static_cast<double>(tiles.size()))
    return;
  plan.tiles = std::move(tiles);
  plan.workspace_bytes = bytes;
}

}  // namespace

AttnPrefillPlan MakeAttnPrefillPlan(std::span<const int32_t> query_len,
                                    std::span<const int32_t> context_len, int64_t num_heads,
                                    int64_t kv_heads, int64_t head_dim, int64_t num_sms,
                                    const PrefillUnpackPolicy& policy) {
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
  AddTiles(context_len, group, kv_heads, policy, plan);
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
