#include "fireq/backends/sm90/attn_prefill/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

TEST(AttnPrefillPlan, EveryRowIsInOnePiece) {
  const std::vector<int32_t> queries = {0, 1, 18, 19, 500};
  const std::vector<int32_t> contexts = {70, 1, 300, 19, 501};
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(queries, contexts, 28, 4, 128, 132);
  std::set<std::pair<int, int>> seen;
  for (const AttnPrefillItem& item : plan.items) {
    EXPECT_TRUE(seen.insert({item.sequence, item.tile}).second);
    EXPECT_LT(item.tile * kPrefillRows, queries[item.sequence] * 7);
  }
  EXPECT_EQ(seen.size(), 0u + 1 + 1 + 1 + 19);  // ceil(7 queries / 192)
}

TEST(AttnPrefillPlan, TilesEndAtTheLastRowsDiagonal) {
  EXPECT_EQ(PrefillKeyTiles(0, 4, 1, 1), 1);
  EXPECT_EQ(PrefillKeyTiles(0, 4, 64, 64), 1);      // rows of queries 0 .. 31
  EXPECT_EQ(PrefillKeyTiles(2, 4, 65, 65), 2);      // query 64 sees 65 keys
  EXPECT_EQ(PrefillKeyTiles(0, 1, 128, 1000), 16);  // a prefix of 872
  EXPECT_EQ(PrefillKeyTiles(0, 4, 1, 0), 0);
}

TEST(AttnPrefillPlan, TheSnakeBalancesCausalWork) {
  const std::vector<int32_t> lengths(16, 1024);
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(lengths, lengths, 32, 8, 128, 132);
  const int64_t pieces = static_cast<int64_t>(plan.items.size()) * 8;
  std::vector<int64_t> sums(132, 0);
  std::vector<int> taken(pieces, 0);
  for (int64_t cta = 0; cta < 132; ++cta) {
    for (int64_t k = 0; PrefillTurn(k, cta, 132) < pieces; ++k) {
      const int64_t piece = PrefillTurn(k, cta, 132);
      ++taken[piece];
      sums[cta] += PrefillKeyTiles(plan.items[piece / 8].tile, 4, 1024, 1024);
    }
  }
  EXPECT_EQ(std::count(taken.begin(), taken.end(), 1), pieces);
  const auto [low, high] = std::minmax_element(sums.begin(), sums.end());
  EXPECT_LE(*high - *low, 16);  // one piece of the longest
}

TEST(AttnPrefillPlan, RefusesWhatNoKernelDoes) {
  const std::vector<int32_t> one = {1};
  EXPECT_THROW(MakeAttnPrefillPlan(one, one, 32, 8, 80, 132), Error);
  EXPECT_THROW(MakeAttnPrefillPlan(one, one, 31, 8, 128, 132), Error);
  EXPECT_THROW(MakeAttnPrefillPlan(one, {}, 32, 8, 128, 132), Error);
}

}  // namespace
}  // namespace fireq::sm90
