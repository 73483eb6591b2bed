#include "fireq/backends/sm90/attn_prefill/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <utility>

#include "fireq/backends/sm90/attn_prefill/tile.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

TEST(AttnPrefillPlan, EveryRowIsInOnePiece) {
  const std::vector<int32_t> queries = {0, 1, 18, 19, 500};
  const std::vector<int32_t> contexts = {70, 1, 300, 19, 501};
  const std::vector<int32_t> first_tokens = {0, 0, 1, 19, 38};
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(queries, contexts, 28, 4, 128, 132);
  std::set<std::pair<int, int>> seen;
  for (const AttnPrefillItem& item : plan.items) {
    EXPECT_TRUE(seen.insert({item.sequence, item.first_row}).second);
    const int rows = queries[item.sequence] * 7;
    EXPECT_EQ((rows - item.first_row) % kPrefillRows, 0);  // the last row is an item's last
    EXPECT_GT(item.first_row, -kPrefillRows);
    EXPECT_LT(item.first_row, rows);
    EXPECT_EQ(item.query_len, queries[item.sequence]);
    EXPECT_EQ(item.prefix, contexts[item.sequence] - queries[item.sequence]);
    EXPECT_EQ(item.first_token, first_tokens[item.sequence]);
  }
  EXPECT_EQ(seen.size(), 0u + 1 + 1 + 1 + 19);  // ceil(7 queries / 192)
}

TEST(AttnPrefillPlan, PagesEndAtTheLastRowsDiagonal) {
  const auto pages = [](int32_t first_row, int32_t prefix, int64_t group) {
    return PrefillKeyPages({.first_row = first_row, .prefix = prefix}, group);
  };
  EXPECT_EQ(pages(4 - kPrefillRows, 0, 4), 1);   // one query
  EXPECT_EQ(pages(64 - kPrefillRows, 0, 4), 1);  // queries 0 .. 15
  EXPECT_EQ(pages(64, 0, 4), 1);                 // queries 16 .. 63
  EXPECT_EQ(pages(68, 0, 4), 2);                 // query 64 sees 65 keys
  EXPECT_EQ(pages(-64, 872, 1), 16);             // queries 0 .. 127 behind a prefix
  EXPECT_EQ(pages(4 - kPrefillRows, -1, 4), 0);  // one query, no context
}

// A prompt of 1024 tokens with a head a KV head: 64 rows that see 64 keys, then five items.
TEST(AttnPrefillPlan, TheItemThatIsNotFullSeesTheFewestKeys) {
  const std::vector<int32_t> lengths = {1024};
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(lengths, lengths, 8, 8, 128, 132);
  std::vector<int64_t> pages;
  for (const AttnPrefillItem& item : plan.items) pages.push_back(PrefillKeyPages(item, 1));
  EXPECT_EQ(pages, (std::vector<int64_t>{1, 4, 7, 10, 13, 16}));
}

TEST(AttnPrefillPlan, CtasGetTheSameWork) {
  const std::vector<int32_t> lengths(16, 1024);
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(lengths, lengths, 32, 8, 128, 132);
  const size_t pieces = plan.items.size() * 8;
  ASSERT_EQ(plan.pieces.size(), pieces + 133);
  std::vector<int64_t> sums;
  std::vector<int> taken(pieces, 0);
  for (int cta = 0; cta < plan.ctas; ++cta) {
    int64_t sum = 0;
    for (const int32_t piece : plan.PiecesOf(cta)) {
      ++taken[piece];
      const int64_t pages = PrefillKeyPages(plan.items[piece / 8], 4);
      sum += 4 * ((pages + 1) / 2) + 5;
    }
    sums.push_back(sum);
  }
  ASSERT_EQ(plan.pieces[plan.ctas] + plan.undealt, static_cast<int64_t>(plan.pieces.size()));
  int64_t undealt = 0;
  for (size_t i = plan.pieces.size() - plan.undealt; i < plan.pieces.size(); ++i) {
    ++taken[plan.pieces[i]];
    undealt += 4 * ((PrefillKeyPages(plan.items[plan.pieces[i] / 8], 4) + 1) / 2) + 5;
  }
  EXPECT_EQ(std::count(taken.begin(), taken.end(), 1), static_cast<int64_t>(pieces));
  const auto [low, high] = std::minmax_element(sums.begin(), sums.end());
  EXPECT_LE(*high - *low, 37);  // of 470: the longest piece
  const double dealt = std::accumulate(sums.begin(), sums.end(), 0.0);
  EXPECT_NEAR(undealt / (dealt + undealt), 0.07, 0.005);
}

// Of random steps: every CTA has a piece, and what it is not dealt is done by whoever is free, but
// where the warps that unpack tiles hand pieces on: these know only what was dealt.
TEST(AttnPrefillPlan, EveryPieceIsDealtOrLeft) {
  std::mt19937 rng(4);
  int left = 0;
  for (const int64_t group : {1, 4, 5, 7, 8, 64}) {
    for (const double min_visits : {0.0, 1e9}) {
      const bool rows_are_a_box = kPrefillRows % group == 0;
      for (int trial = 0; trial < 10; ++trial) {
        std::vector<int32_t> lengths(1 + rng() % 20);
        for (int32_t& length : lengths) length = static_cast<int32_t>(rng() % 700);
        const AttnPrefillPlan plan = MakeAttnPrefillPlan(lengths, lengths, 2 * group, 2, 128, 132,
                                                         {.min_visits = min_visits});
        std::vector<int> taken(plan.items.size() * 2);
        for (int cta = 0; cta < plan.ctas; ++cta) {
          ASSERT_FALSE(plan.PiecesOf(cta).empty());
          for (const int32_t piece : plan.PiecesOf(cta)) ++taken.at(piece);
        }
        ASSERT_EQ(plan.pieces[plan.ctas] + plan.undealt, std::ssize(plan.pieces));
        for (int32_t i = 0; i < plan.undealt; ++i) ++taken.at(*(plan.pieces.rbegin() + i));
        EXPECT_EQ(std::ranges::count(taken, 1), std::ssize(taken));
        EXPECT_GE(plan.progress_bytes, kPrefillReady * int64_t{sizeof(uint32_t)});
        if (!rows_are_a_box && !plan.tiles.empty()) {
          EXPECT_EQ(plan.undealt, 0);
        }
        left += plan.undealt;
      }
    }
  }
  EXPECT_GT(left, 100);
}

// CTAs of a moment read the same keys: of 128 sequences and heads, twelve at a time.
TEST(AttnPrefillPlan, PiecesOfASequenceAndHeadAreDoneTogether) {
  const std::vector<int32_t> lengths(16, 4096);
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(lengths, lengths, 32, 8, 128, 132);
  for (int cta = 0; cta < plan.ctas; ++cta) {
    const auto pieces = plan.PiecesOf(cta);
    const auto stream = [&](int32_t piece) {
      return plan.items[piece / 8].sequence * 8 + piece % 8;
    };
    for (size_t i = 1; i < pieces.size(); ++i)
      EXPECT_GT(stream(pieces[i]), stream(pieces[i - 1]) - 12);
  }
}

// Else a CTA could wait for a tile that those who have taken it do not unpack yet.
TEST(AttnPrefillPlan, ACtaMayUnpackWhatItAttendsTo) {
  std::mt19937 rng(1);
  std::vector<int32_t> lengths(20);
  for (int32_t& length : lengths) length = 100 + static_cast<int32_t>(rng() % 5000);
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(lengths, lengths, 64, 8, 128, 132);
  ASSERT_FALSE(plan.tiles.empty());
  for (size_t i = 0; i < plan.tiles.size(); ++i) {
    const AttnPrefillTile& tile = plan.tiles[i];
    const int32_t first = tile.number / 8 - tile.first_token / kPrefillKeys;  // of the sequence
    const int32_t tiles = (tile.context + kPrefillKeys - 1) / kPrefillKeys;
    EXPECT_LT(static_cast<int32_t>(i), first * 8 + tile.number % 8 * tiles + plan.lead);
  }
}

// By their numbers, each of which is that of one.
std::vector<AttnPrefillTile> TilesOf(const AttnPrefillPlan& plan) {
  std::vector<AttnPrefillTile> tiles = plan.tiles;
  std::sort(tiles.begin(), tiles.end(),
            [](const AttnPrefillTile& a, const AttnPrefillTile& b) { return a.number < b.number; });
  for (size_t i = 0; i < tiles.size(); ++i) EXPECT_EQ(tiles[i].number, static_cast<int>(i));
  return tiles;
}

TEST(AttnPrefillPlan, TilesAreThoseOfSequencesWithQueries) {
  const std::vector<int32_t> queries = {0, 1, 3, 200};
  const std::vector<int32_t> contexts = {700, 129, 0, 300};
  const PrefillUnpackPolicy always{.min_visits = 0.0};
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(queries, contexts, 8, 2, 128, 132, always);
  const std::vector<AttnPrefillTile> tiles = TilesOf(plan);
  const std::vector<std::pair<int, int>> expected = {{1, 0}, {1, 128}, {3, 0}, {3, 128}, {3, 256}};
  ASSERT_EQ(tiles.size(), 2 * expected.size());
  for (size_t i = 0; i < tiles.size(); ++i) {
    EXPECT_EQ(std::pair(tiles[i].sequence, tiles[i].first_token), expected[i / 2]);
    EXPECT_EQ(tiles[i].context, contexts[tiles[i].sequence]);
  }
  EXPECT_EQ(plan.workspace_bytes, 5 * 2 * int64_t{sizeof(PrefillTile<128>)});
  for (const AttnPrefillItem& item : plan.items) {
    if (contexts[item.sequence] == 0) continue;
    EXPECT_EQ(tiles[2 * item.first_tile].sequence, item.sequence);
    EXPECT_EQ(tiles[2 * item.first_tile].first_token, 0);
  }
  EXPECT_EQ(MakeAttnPrefillPlan(queries, contexts, 8, 2, 64, 132, always).workspace_bytes,
            5 * 2 * int64_t{sizeof(PrefillTile<64>)});
}

// Each once, the first of a batch's sequences and heads before the second of any.
TEST(AttnPrefillPlan, TilesAreUnpackedInTheOrderThatPiecesWant) {
  const std::vector<int32_t> lengths(16, 1024);
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(lengths, lengths, 32, 8, 128, 132);
  ASSERT_EQ(TilesOf(plan).size(), 16u * 8 * 8);
  EXPECT_EQ(plan.progress_bytes, (kPrefillReady + 16 * 8 * 8) * 4);
  const int batch = 47;  // sequences and heads of 8 tiles: 12 MB
  for (int i = 0; i < 8 * batch; ++i) {
    const AttnPrefillTile& tile = plan.tiles[i];
    EXPECT_EQ(tile.first_token, i / batch * kPrefillKeys);
    EXPECT_EQ(tile.sequence * 8 + tile.number % 8, i % batch);
  }
}

TEST(AttnPrefillPlan, UnpacksOnceWhereTilesAreVisitedOften) {
  const auto tiles = [](int32_t queries, int32_t context, int64_t kv_heads,
                        const PrefillUnpackPolicy& policy = {}) {
    return MakeAttnPrefillPlan(std::vector{queries}, std::vector{context}, 32, kv_heads, 128, 132,
                               policy)
        .tiles.size();
  };
  EXPECT_EQ(tiles(4096, 4096, 8), 32u * 8);
  EXPECT_EQ(tiles(2048, 2048, 32), 16u * 32);  // six visits a tile
  EXPECT_EQ(tiles(1024, 1024, 32), 0u);        // three
  EXPECT_EQ(tiles(128, 30000, 8), 0u);         // a chunk behind a long prefix: three
  EXPECT_EQ(tiles(2048, 30000, 8), 235u * 8);
  EXPECT_EQ(tiles(4096, 4096, 8, {.workspace_limit = 1 << 20}), 0u);
}

// Of random steps, and of those that want most: as many long contexts as have just enough queries.
TEST(AttnPrefillPlan, NoPlanTakesMoreMemoryThanIsSaid) {
  std::mt19937 rng(9);
  const auto below = [&](int64_t end) {
    return static_cast<int32_t>(rng() % static_cast<uint64_t>(end));
  };
  double fullest = 0.0;
  for (int trial = 0; trial < 2000; ++trial) {
    const int64_t kv_heads = int64_t{1} << below(4), group = 1 + below(8);
    const PrefillLimits limits{.max_tokens = 1 + below(20000),
                               .max_sequences = 1 + below(100),
                               .max_context = 1 + below(5000),
                               .num_heads = kv_heads * group,
                               .kv_heads = kv_heads,
                               .head_dim = trial % 2 == 0 ? 64 : 128,
                               .num_sms = 132};
    const PrefillUnpackPolicy policy{.workspace_limit = int64_t{1} << (20 + below(10))};
    const PrefillMemory memory = MaxPrefillMemory(limits, policy);
    const int64_t enough = (4 * kPrefillRows + group) / group;  // for five visits
    std::vector<int32_t> queries, contexts;
    int64_t left = limits.max_tokens;
    while (left > 0 && std::ssize(queries) < limits.max_sequences) {
      const int64_t wanted = trial % 3 == 0 ? enough : 1 + below(limits.max_tokens);
      const int64_t count = std::min({wanted, left, limits.max_context});
      queries.push_back(static_cast<int32_t>(count));
      contexts.push_back(static_cast<int32_t>(
          trial % 3 == 0 ? limits.max_context : count + below(limits.max_context - count + 1)));
      left -= count;
    }
    const AttnPrefillPlan plan = MakeAttnPrefillPlan(queries, contexts, limits.num_heads, kv_heads,
                                                     limits.head_dim, 132, policy);
    const size_t lists = plan.items.size() * sizeof(AttnPrefillItem) +
                         plan.tiles.size() * sizeof(AttnPrefillTile) +
                         plan.pieces.size() * sizeof(int32_t);
    ASSERT_LE(plan.workspace_bytes, memory.workspace) << trial;
    ASSERT_LE(plan.progress_bytes, memory.progress) << trial;
    ASSERT_LE(static_cast<int64_t>(lists), memory.lists) << trial;
    if (plan.workspace_bytes > 0)
      fullest = std::max(fullest, double(plan.workspace_bytes) / double(memory.workspace));
  }
  EXPECT_GT(fullest, 0.9);
}

// What is said is no more than it must be, whatever of the three bounds it.
TEST(AttnPrefillPlan, MemoryIsBoundByVisitsSequencesOrThePolicy) {
  PrefillLimits limits{.max_tokens = 16896,
                       .max_sequences = 256,
                       .max_context = 1536,
                       .num_heads = 32,
                       .kv_heads = 8,
                       .head_dim = 128,
                       .num_sms = 132};
  constexpr int64_t kTile = 8 * sizeof(PrefillTile<128>);  // of all KV heads
  // Five visits of each of twelve tiles take 769 rows of a sequence.
  EXPECT_EQ(MaxPrefillMemory(limits).workspace, int64_t{12} * 4 * 16896 / 769 * kTile);
  limits.max_sequences = 9;
  EXPECT_EQ(MaxPrefillMemory(limits).workspace, 9 * 12 * kTile);
  EXPECT_EQ(MaxPrefillMemory(limits, {.workspace_limit = 100 * kTile - 1}).workspace, 99 * kTile);
  const int64_t items = 16896 * 4 / kPrefillRows + 9, tiles = 9 * 12;
  EXPECT_EQ(MaxPrefillMemory(limits).lists, items * 32 + tiles * 8 * 16 + (items * 8 + 133) * 4);
  EXPECT_EQ(MaxPrefillMemory(limits).progress, (kPrefillReady + tiles * 8) * 4);
}

// No sequence has queries: nothing is launched.
TEST(AttnPrefillPlan, StepsWithoutQueriesHaveNoWork) {
  const std::vector<int32_t> queries = {0, 0}, contexts = {700, 0};
  for (const AttnPrefillPlan& plan : {MakeAttnPrefillPlan(queries, contexts, 8, 2, 128, 132),
                                      MakeAttnPrefillPlan({}, {}, 8, 2, 128, 132)}) {
    EXPECT_TRUE(plan.items.empty() && plan.tiles.empty());
    EXPECT_EQ(plan.ctas, 0);
    EXPECT_EQ(plan.workspace_bytes, 0);
  }
}

// A step of few rows has a CTA a piece.
TEST(AttnPrefillPlan, NoCtaIsWithoutWork) {
  const std::vector<int32_t> queries = {40, 200}, contexts = {40, 900};
  const AttnPrefillPlan plan = MakeAttnPrefillPlan(queries, contexts, 8, 2, 64, 132);
  EXPECT_EQ(plan.ctas, (1 + 5) * 2);
  for (int cta = 0; cta < plan.ctas; ++cta) EXPECT_EQ(plan.PiecesOf(cta).size(), 1u);
}

TEST(AttnPrefillPlan, RefusesWhatNoKernelDoes) {
  const std::vector<int32_t> one = {1};
  EXPECT_THROW(MakeAttnPrefillPlan(one, one, 32, 8, 80, 132), Error);
  EXPECT_THROW(MakeAttnPrefillPlan(one, one, 31, 8, 128, 132), Error);
  EXPECT_THROW(MakeAttnPrefillPlan(one, one, 32, 0, 128, 132), Error);
  EXPECT_THROW(MakeAttnPrefillPlan(one, {}, 32, 8, 128, 132), Error);
  EXPECT_THROW(MakeAttnPrefillPlan(one, one, 32, 8, 128, 0), Error);
}

}  // namespace
}  // namespace fireq::sm90
