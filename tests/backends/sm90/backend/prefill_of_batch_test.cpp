#include "fireq/backends/sm90/backend/prefill_of_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "fireq/backends/sm90/attn_prefill/tile.h"
#include "fireq/backends/sm90/backend/short_sequences.h"

namespace fireq::sm90 {
namespace {

BatchView Batch(std::vector<int32_t> query_lens, std::vector<int32_t> context_lens) {
  BatchView batch;
  batch.num_tokens = std::reduce(query_lens.begin(), query_lens.end());
  batch.num_sequences = std::ssize(query_lens);
  batch.max_query_len = std::ranges::max(query_lens);
  batch.query_lens = std::move(query_lens);
  batch.context_lens = std::move(context_lens);
  return batch;
}

constexpr PrefillUnpackPolicy kAllTiles{.min_visits = 0.0};

TEST(PlanPrefill, ItemsTellTheBatchsNumbers) {
  const BatchView batch = Batch({1, 1, 1, 60, 0, 200, 7}, {900, 30, 511, 300, 40, 200, 1000});
  const std::vector<int32_t> first_tokens = {0, 1, 2, 3, 63, 63, 263};
  for (const int64_t first : {0, 1, 3, 5}) {
    const AttnPrefillPlan plan = PlanPrefill(batch, first, 28, 4, 128, 132, kAllTiles);
    std::set<std::pair<int, int>> rows;
    int64_t expected = 0;
    for (int64_t s = first; s < batch.num_sequences; ++s)
      expected += (batch.query_lens[s] * 7 + kPrefillRows - 1) / kPrefillRows;
    for (const AttnPrefillItem& item : plan.items) {
      ASSERT_GE(item.sequence, first);
      ASSERT_LT(item.sequence, batch.num_sequences);
      EXPECT_TRUE(rows.insert({item.sequence, item.first_row}).second);
      EXPECT_EQ(item.first_token, first_tokens[item.sequence]);
      EXPECT_EQ(item.query_len, batch.query_lens[item.sequence]);
      EXPECT_EQ(item.prefix, batch.context_lens[item.sequence] - item.query_len);
    }
    EXPECT_EQ(std::ssize(plan.items), expected);
  }
}

TEST(PlanPrefill, TilesTellTheBatchsNumbers) {
  const BatchView batch = Batch({1, 1, 60, 200, 7}, {900, 30, 300, 200, 1000});
  for (const int64_t first : {0, 2, 3}) {
    const AttnPrefillPlan plan = PlanPrefill(batch, first, 32, 8, 128, 132, kAllTiles);
    ASSERT_FALSE(plan.tiles.empty());
    for (const AttnPrefillTile& tile : plan.tiles) {
      ASSERT_GE(tile.sequence, first);
      ASSERT_LT(tile.sequence, batch.num_sequences);
      EXPECT_EQ(tile.context, batch.context_lens[tile.sequence]);
    }
    // An item's first tile is its sequence's: tiles themselves are numbered from the part on.
    for (const AttnPrefillItem& item : plan.items) {
      const auto tile =
          std::ranges::find(plan.tiles, item.first_tile * 8, &AttnPrefillTile::number);
      ASSERT_NE(tile, plan.tiles.end());
      EXPECT_EQ(tile->sequence, item.sequence);
      EXPECT_EQ(tile->first_token, 0);
    }
  }
}

TEST(DecodedSequences, AllOfShortRunsElseThoseOfOneTokenInFront) {
  const auto decoded = [](const BatchView& batch, Reduction reduction = Reduction::kFastest) {
    const SequenceRange range = DecodedSequences(batch, reduction);
    EXPECT_EQ(range.begin, 0);
    return std::pair{range.end, range.max_query_len};
  };
  using Decoded = std::pair<int64_t, int64_t>;
  EXPECT_EQ(decoded(Batch({1, 1, 1}, {5, 6, 7})), Decoded(3, 1));
  EXPECT_EQ(decoded(Batch({1, 8, 2}, {5, 8, 7})), Decoded(3, 8));  // as verifying drafts would
  EXPECT_EQ(decoded(Batch({1, 1, 9}, {5, 6, 9})), Decoded(2, 1));
  EXPECT_EQ(decoded(Batch({1, 2, 1, 9}, {5, 6, 7, 9})), Decoded(1, 1));
  EXPECT_EQ(decoded(Batch({64, 1, 1}, {64, 6, 7})), Decoded(0, 1));
  EXPECT_EQ(decoded(Batch({1, 1, 1}, {5, 6, 7}), Reduction::kBatchInvariant).first, 0);
}

}  // namespace
}  // namespace fireq::sm90
