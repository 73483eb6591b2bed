#include "fireq/backends/sm90/gemm_i4f8/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>
#include <vector>

#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

int ClusterOf(int wide_variant) {
  return kGemmVariants[static_cast<size_t>(wide_variant)].wide_cluster;
}

// Every unit of every tile belongs to exactly one rank; runs differ by at most one unit; whole
// tiles come before parts, and of two parts the tail comes last.
template <class Count>
void CheckSchedule(const ClusterSchedule<Count>& s) {
  const int tile_units = ValueOf(s.units), ranks = ValueOf(s.ranks);
  std::vector<int> owner(static_cast<size_t>(s.tiles * tile_units), -1);
  for (int rank = 0; rank < ranks; ++rank) {
    bool seen_part = false;
    int units = 0;
    const ClusterRun run(s, rank);
    for (int i = 0; i < run.count; ++i) {
      const Segment segment = run.At(i);
      ASSERT_LT(segment.begin, segment.end);
      ASSERT_LE(segment.end, tile_units);
      if (!segment.whole(tile_units)) seen_part = true;
      ASSERT_TRUE(s.pair || !seen_part || !segment.whole(tile_units))
          << "a whole tile after a part";
      if (s.pair) {
        ASSERT_TRUE(segment.whole(tile_units) || rank == (segment.begin == 0 ? 0 : 1));
      } else if (!segment.whole(tile_units) && segment.begin == 0) {
        ASSERT_EQ(i, run.count - 1) << "the tail reuses the ring: it must be last";
      }
      if (!segment.whole(tile_units)) {
        ASSERT_LE(s.FirstRank(segment.tile), rank);
        ASSERT_GE(s.LastRank(segment.tile), rank);
        ASSERT_EQ(segment.begin == 0, s.FirstRank(segment.tile) == rank);
      }
      for (int u = segment.begin; u < segment.end; ++u, ++units) {
        int& cell = owner[static_cast<size_t>(segment.tile * tile_units + u)];
        ASSERT_EQ(cell, -1);
        cell = rank;
      }
    }
    ASSERT_EQ(units, s.RunUnits(rank));
    ASSERT_LE(std::abs(units - s.tiles * tile_units / ranks), 1);
  }
  for (const int rank : owner) ASSERT_NE(rank, -1);
}

void CheckBoth(int tiles, int units, int ranks, bool pair = false) {
  CheckSchedule(ClusterSchedule<int>{tiles, units, ranks, pair});
  CheckSchedule(ClusterSchedule<Divisor>{tiles, Divisor(units), Divisor(ranks), pair});
}

TEST(GemmI4F8Plan, ScheduleCoversEveryUnitOnce) {
  for (int tiles = 1; tiles <= 12; ++tiles)
    for (int units = 1; units <= 20; ++units)
      for (int ranks = 1; ranks <= 8 && ranks <= tiles * units; ++ranks)
        CheckBoth(tiles, units, ranks);
}

TEST(GemmI4F8Plan, PairsShareAtMostOneTile) {
  for (int tiles = 1; tiles <= 12; ++tiles)
    for (int units = 2; units <= 20; ++units) CheckBoth(tiles, units, 2, true);
}

TEST(GemmI4F8Plan, HelpersHaveTheEndsOfAllParts) {
  constexpr int kUnits = 7, kEnd = 3;  // of a part
  for (int ranks = 1; ranks <= 5; ++ranks) {
    for (int parts = ranks; parts <= 40; parts += ranks) {
      for (int helpers = 1; helpers <= parts; ++helpers) {
        const EndsSchedule schedule{parts, kUnits, kEnd, Divisor(helpers)};
        std::vector<int> covered(static_cast<size_t>(parts * kUnits));
        for (int cta = 0; cta < parts + helpers; ++cta) {
          const ClusterRun run = schedule.Run(cta);
          const bool helps = cta < helpers;
          ASSERT_GE(run.count, 1);
          ASSERT_LE(run.count, helps ? CeilDiv(parts, helpers) : 1);
          for (int i = 0; i < run.count; ++i) {
            const Segment segment = EndsSchedule::At(run, i, Divisor(ranks));
            ASSERT_EQ(segment.tile, (run.first + i) / ranks);
            ASSERT_EQ(segment.begin % kUnits, helps ? kUnits - kEnd : 0);
            ASSERT_EQ(segment.end - segment.begin, helps ? kEnd : kUnits - kEnd);
            for (int u = segment.begin; u < segment.end; ++u)
              ++covered[static_cast<size_t>(segment.tile * ranks * kUnits + u)];
          }
        }
        for (const int times : covered) ASSERT_EQ(times, 1);
      }
    }
  }
}

TEST(GemmI4F8Plan, HelpersAreIdleAndWorthIt) {
  const GemmPlan gate_up = MakeGemmPlan({64, 14336, 8192}, Products::kExact);
  EXPECT_EQ(gate_up.tiles, 112);
  EXPECT_EQ(gate_up.helpers, 20);
  EXPECT_EQ(gate_up.end_units, 3);
  const GemmPlan qkv = MakeGemmPlan({64, 2560, 8192}, Products::kExact);
  EXPECT_EQ(qkv.cluster, 4);
  EXPECT_EQ(qkv.helpers, 40);
  EXPECT_EQ(qkv.end_units, 2);
  const GemmDevice device;
  const int variant = FindGemmVariant("exact_64x128_deep");
  for (const int cluster : {1, 2, 4, 8}) {
    const int room = device.max_clusters[static_cast<size_t>(cluster)];
    for (const int64_t n : {128, 1280, 14336, 15360, 16896, 28672}) {
      for (const int64_t k : {2048, 4096, 8192}) {
        const GemmPlan cut = MakeForcedGemmPlan({64, n, k}, variant, cluster, device, true);
        ASSERT_LE(cut.num_clusters, room);
        ASSERT_LE(cut.helpers, cut.tiles * cluster);
        ASSERT_LT(cut.end_units, cut.units / cluster);
        ASSERT_EQ(cut.helpers > 0, cut.end_units > 0);
        EXPECT_EQ(MakeForcedGemmPlan({64, n, k}, variant, cluster).helpers, 0);
      }
    }
  }
}

TEST(GemmI4F8Plan, WideTilesAreEachVisitedOnce) {
  for (const int rows : {1, 3, 16}) {
    for (const int tokens : {1, 2, 4, 7, 8, 9, 16, 64}) {
      for (const int band : {kTokenTilesPerBand, TokenTilesOfEarlyBand(tokens)}) {
        std::set<std::pair<int, int>> seen;
        const WideTileOrder order(rows, tokens, band);
        for (int i = 0; i < rows * tokens; ++i) {
          const WideTile tile = order.At(i);
          ASSERT_LT(tile.row_pair, rows);
          ASSERT_LT(tile.token_tile, tokens);
          ASSERT_TRUE(seen.emplace(tile.row_pair, tile.token_tile).second);
        }
      }
    }
  }
}

// Where rows are wanted early the last band is narrow, and the others are not.
TEST(GemmI4F8Plan, EarlyRowsAreOfAllBandsButANarrowOne) {
  for (const auto& [tokens, band] :
       {std::pair{2, 1}, {3, 2}, {4, 3}, {8, 7}, {9, 8}, {12, 5}, {16, 5}, {64, 7}})
    EXPECT_EQ(TokenTilesOfEarlyBand(tokens), band) << tokens;
}

// Whole tiles are full waves; the rest is dealt so that every part has work and a cluster of its
// own.
TEST(GemmI4F8Plan, WideTilesAreCutOnRequest) {
  const GemmDevice device;
  for (const char* name : {"table_256x128", "table_192x128", "table_128x128", "table_128x64"}) {
    const int variant = FindGemmVariant(name);
    const int cluster = ClusterOf(variant);
    const int room = device.max_clusters[static_cast<size_t>(cluster)];
    int cut = 0;
    for (const int64_t n : {64, 2560, 4096, 6144, 12288, 28672}) {
      for (const int64_t k : {64, 576, 2048, 4096, 14336}) {
        for (const int64_t m : {128, 200, 256, 512, 1000, 4096}) {
          EXPECT_FALSE(MakeForcedGemmPlan({m, n, k}, variant, cluster).cuts_tiles());
          const GemmPlan plan = MakeForcedGemmPlan({m, n, k}, variant, cluster, device, true);
          if (!plan.cuts_tiles()) continue;
          ++cut;
          ASSERT_EQ(plan.whole_tiles, plan.tiles / room * room);
          ASSERT_GE(plan.parts, 2);
          ASSERT_GE(plan.units / plan.parts, 1);
          ASSERT_LE((plan.tiles - plan.whole_tiles) * plan.parts, plan.num_clusters);
          ASSERT_LE(plan.num_clusters, room);
          ASSERT_LE(plan.num_clusters * cluster, kWideMaxCtas);
        }
      }
    }
    EXPECT_GT(cut, 20) << name;
    GemmDevice larger;  // than the workspace has words for
    larger.max_clusters[static_cast<size_t>(cluster)] = kWideMaxCtas / cluster + 1;
    EXPECT_FALSE(
        MakeForcedGemmPlan({128, 4096, 4096}, variant, cluster, larger, true).cuts_tiles());
  }
}

// Every unit of the tiles that are dealt belongs to one cluster. A tile's beginning is finished by
// who has it, with the parts of the clusters behind it in the order of K, each of whom hands over
// one part at most, before anything else.
void CheckDeal(int tiles, int units, int most_clusters, int lag) {
  const WideDeal deal = DealTiles(tiles, units, most_clusters, lag);
  const int clusters = deal.clusters;
  ASSERT_LE(clusters, most_clusters);
  ASSERT_EQ(deal.begin[clusters], tiles * units);
  int longest = 0;
  for (int c = 0; c < clusters; ++c) {
    ASSERT_LT(deal.begin[c], deal.begin[c + 1]);
    longest = std::max(longest, deal.begin[c + 1] - deal.begin[c]);
  }
  std::vector<int> done(static_cast<size_t>(tiles));  // units of each tile, from its beginning
  std::vector<int> parts(static_cast<size_t>(tiles));
  for (int c = 0; c < clusters; ++c) {
    const WideDeal::Share share = deal.Of(c);
    if (share.hands_over()) {
      int& so_far = done[static_cast<size_t>(share.tile)];
      ASSERT_EQ(so_far, share.begin);
      ASSERT_GT(so_far, 0);
      ASSERT_LE(share.end - share.begin, std::max(1, longest - lag));
      so_far = share.end;
      ++parts[static_cast<size_t>(share.tile)];
    }
    for (int i = 0; i < share.whole; ++i) {
      ASSERT_EQ(done[static_cast<size_t>(share.first + i)], 0);
      done[static_cast<size_t>(share.first + i)] = units;
    }
    if (!share.finishes()) continue;
    const int tile = share.first + share.whole;
    ASSERT_EQ(done[static_cast<size_t>(tile)], 0);
    ASSERT_LT(share.units, units);
    done[static_cast<size_t>(tile)] = share.units;
  }
  for (const int count : done) ASSERT_EQ(count, units);
  for (int c = 0; c < clusters; ++c) {
    const WideDeal::Share share = deal.Of(c);
    if (!share.finishes()) continue;
    const int tile = share.first + share.whole;
    int behind = 0;
    while (deal.HasPart(c + 1 + behind, tile)) ++behind;
    ASSERT_EQ(behind, parts[static_cast<size_t>(tile)]);
  }
}

TEST(GemmI4F8Plan, DealtTilesAreEachFinishedOnce) {
  for (int tiles = 1; tiles <= 14; ++tiles)
    for (int units = 1; units <= 9; ++units)
      for (int clusters = 1; clusters <= tiles * units && clusters <= 11; ++clusters)
        for (const int lag : {0, 1, 2}) CheckDeal(tiles, units, clusters, lag);
  CheckDeal(46, 8, 66, 0);
  CheckDeal(40, 16, 66, 1);
  CheckDeal(16, 112, 66, 1);
}

TEST(GemmI4F8Plan, TilesOfTheLastWaveAreDealtToAllClusters) {
  const GemmDevice device;
  const int room = device.max_clusters[2];
  for (const char* name : {"table_256x128_dealt", "table_128x128_dealt"}) {
    const int variant = FindGemmVariant(name);
    int dealt = 0;
    for (const int64_t n : {64, 2560, 4096, 12288, 22016, 28672}) {
      for (const int64_t k : {64, 576, 4096, 14336}) {
        for (const int64_t m : {128, 256, 512, 1000, 4096}) {
          EXPECT_FALSE(MakeForcedGemmPlan({m, n, k}, variant, 2).cuts_tiles());
          const GemmPlan plan = MakeForcedGemmPlan({m, n, k}, variant, 2, device, true);
          if (!plan.cuts_tiles()) continue;
          ++dealt;
          const int tiles = plan.tiles - plan.whole_tiles;
          ASSERT_EQ(plan.whole_tiles % plan.num_clusters, 0);
          ASSERT_LE(plan.num_clusters, tiles * plan.units);
          ASSERT_LE(plan.num_clusters, room);
          ASSERT_TRUE(plan.num_clusters == room || plan.whole_tiles == 0);
          ASSERT_TRUE(plan.whole_tiles == 0 || 2 * tiles >= room);
        }
      }
    }
    EXPECT_GT(dealt, 20) << name;
  }
}

// Who waits for another CTA's sums would wait for good if that one had no multiprocessor; and the
// workspace has sums of a CTA a multiprocessor.
TEST(GemmI4F8Plan, CtasThatHandSumsOverRunAtOneTime) {
  GemmDevice small;  // of fewer multiprocessors than the table was made on
  small.num_sms = 114;
  small.max_clusters = {0, 114, 57, 33, 26, 19, 14, 12, 12};
  for (const GemmDevice& device : {GemmDevice{}, small}) {
    int cuts = 0;
    for (const TunedGemm& row : TunedGemms()) {
      for (const int64_t m : {row.max_m, row.max_m / 2 + 1, row.max_m * 3 / 4}) {
        const GemmShape shape{m, row.n, row.k};
        const GemmPlan plan =
            MakeForcedGemmPlan(shape, FindGemmVariant(row.variant), row.cluster, device, row.cut);
        if (!plan.cuts_tiles()) continue;
        ++cuts;
        EXPECT_LE(plan.num_clusters, device.max_clusters[static_cast<size_t>(plan.cluster)])
            << plan.why;
        EXPECT_LE(plan.num_clusters * plan.cluster, device.num_sms) << plan.why;
      }
    }
    EXPECT_GT(cuts, 50);
  }
}

// What is handed over in 16 bits is never too large for them.
TEST(GemmI4F8Plan, PartsFitTheirUnit) {
  for (const int64_t k : {64, 576, 4096, 28672, 1 << 20}) {
    const float largest = 448.0f * 448.0f * static_cast<float>(k) / WidePartUnit(k);
    EXPECT_LT(largest, 65504.0f);
    EXPECT_TRUE(WidePartUnit(k) == 1.0f || largest >= 65504.0f / 2) << k;
  }
}

// A step of a tile of 64 rows is two groups of 128, one for each of the warpgroups that share K.
// The others' tiles are of two CTAs.
TEST(GemmI4F8Plan, TilesOfOneRowBlockHaveHalfAsManySteps) {
  const int whole = FindGemmVariant("table_128x128"), shared = FindGemmVariant("table_128x64");
  for (const int64_t k : {64, 576, 1024, 4096, 11008, 14336}) {
    const GemmPlan a = MakeForcedGemmPlan({256, 4096, k}, whole, 2);
    const GemmPlan b = MakeForcedGemmPlan({256, 4096, k}, shared, 1);
    EXPECT_EQ(b.tiles, 4 * a.tiles);
    EXPECT_EQ(b.units, CeilDiv(a.units, 2));
  }
}

// CTAs alone may be as many as there are multiprocessors, of any number of row blocks.
TEST(GemmI4F8Plan, CtasAloneHaveAllMultiprocessors) {
  const int variant = FindGemmVariant("table_128x64");
  for (const auto& [n, m, parts, ctas] : {std::array<int64_t, 4>{4096, 128, 2, 128},
                                          {2560, 128, 3, 120},
                                          {12288, 128, 2, 132},
                                          {2112, 65, 4, 132},
                                          {1600, 128, 5, 125},
                                          {6144, 128, 1, 96}}) {
    const GemmPlan plan = MakeForcedGemmPlan({m, n, 8192}, variant, 1, {}, true);
    EXPECT_EQ(plan.tiles, n / 64);
    EXPECT_EQ(plan.parts, parts) << n;
    EXPECT_EQ(plan.num_clusters, ctas) << n;
    EXPECT_EQ(plan.cuts_tiles(), parts > 1) << n;
  }
  EXPECT_THROW(MakeForcedGemmPlan({128, 4096, 4096}, variant, 2), Error);
  EXPECT_THROW(MakeForcedGemmPlan({128, 4096, 4096}, FindGemmVariant("table_128x128"), 1), Error);
}

// Tiles of 64 rows and 256 tokens: as many CTAs as tiles, never cut, units of half as many steps.
TEST(GemmI4F8Plan, OneTileACta) {
  const GemmDevice device;
  const int variant = FindGemmVariant("table_256x64");
  for (const int64_t n : {64, 4096, 28672}) {
    for (const int64_t k : {64, 576, 4096, 11008}) {
      for (const int64_t m : {1, 256, 257, 4096}) {
        const GemmPlan plan = MakeForcedGemmPlan({m, n, k}, variant, 1, device, true);
        EXPECT_FALSE(plan.cuts_tiles());
        EXPECT_EQ(plan.num_clusters, plan.tiles);
        EXPECT_EQ(plan.tiles, n / 64 * CeilDiv<int64_t>(m, 256));
        EXPECT_EQ(plan.units, CeilDiv<int64_t>(k, 512));
      }
    }
  }
}

// Three row blocks to a pair of CTAs, and never cut.
TEST(GemmI4F8Plan, PairsThatShareARowBlock) {
  const int variant = FindGemmVariant("table_256x96");
  for (const int64_t n : {64, 128, 192, 256, 6144, 12288}) {
    for (const int64_t m : {1, 256, 257, 4096}) {
      const GemmPlan plan = MakeForcedGemmPlan({m, n, 4096}, variant, 2, {}, true);
      EXPECT_FALSE(plan.cuts_tiles());
      EXPECT_EQ(plan.tiles, CeilDiv<int64_t>(n / 64, 3) * CeilDiv<int64_t>(m, 256));
    }
  }
}

// The warpgroups of all CTAs finish every chunk of tokens of every row block of their cluster once.
template <class Config>
void CheckOutputs(int row_blocks) {
  std::set<std::pair<int, int>> finished;
  const std::vector<int> pairs = {0, 1, 7};
  for (const int pair : pairs) {
    for (int rank = 0; rank < Config::kClusterCtas; ++rank) {
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        const int block = Config::FirstBlock(pair, rank) + Config::RowBlock(w, rank);
        ASSERT_EQ(block / row_blocks, pair);
        for (int c = 0; c < Config::Chunks(w); ++c) {
          const int token = Config::FirstToken(w, rank) + c * kWideOutTokens;
          ASSERT_LT(token, Config::kTokens);
          ASSERT_TRUE(finished.emplace(block, token).second) << block << ", " << token;
        }
      }
    }
  }
  EXPECT_EQ(std::ssize(finished),
            std::ssize(pairs) * row_blocks * (Config::kTokens / kWideOutTokens));
}

TEST(GemmI4F8Plan, OutputsOfAClusterAreEachFinishedOnce) {
  CheckOutputs<WideConfig<256, 2, 1, 2>>(4);
  CheckOutputs<WideConfig<192, 2, 1, 2>>(4);
  CheckOutputs<WideConfig<128, 1, 2, 1>>(1);
  CheckOutputs<WideConfig<128, 1, 2, 2>>(2);
  CheckOutputs<WideConfig<256, 1, 2, 1>>(1);
  CheckOutputs<WideConfig<256, 2, 1, 2, true>>(3);
}

TEST(GemmI4F8Plan, ServedPlansFollowTheTokenCountAlone) {
  for (const int64_t m : {1, 16, 17, 64, 127, 128, 129, 4096, 16384}) {
    const GemmPlan plan = MakeGemmPlan({m, 12288, 4096}, Products::kServed);
    EXPECT_EQ(plan.kernel().kernel == GemmKernel::kWide, m >= kTableMinTokens) << plan.why;
    EXPECT_FALSE(plan.why.empty());
  }
}

TEST(GemmI4F8Plan, PlansFitTheDeviceAndTheShape) {
  const GemmDevice device;
  for (const int64_t n : {64, 192, 2560, 4096, 6144, 28672}) {
    for (const int64_t k : {64, 576, 2048, 4096, 28672}) {
      for (const int64_t m : {1, 8, 9, 33, 64, 100, 513, 16384}) {
        for (const Products products : {Products::kExact, Products::kTable}) {
          const GemmPlan plan = MakeGemmPlan({m, n, k}, products, device);
          ASSERT_GE(plan.num_clusters, 1);
          ASSERT_LE(plan.num_clusters, device.max_clusters[static_cast<size_t>(plan.cluster)]);
          if (plan.kernel().kernel == GemmKernel::kStream) {
            ASSERT_GE(plan.num_clusters * plan.tiles_per_cluster, plan.tiles);
            ASSERT_LE(plan.cluster, plan.units);
          }
        }
      }
    }
  }
}

TEST(GemmI4F8Plan, TunedRowsNameRealPlans) {
  for (const TunedGemm& row : TunedGemms()) {
    const int variant = FindGemmVariant(row.variant);
    ASSERT_GE(variant, 0) << row.variant;
    const GemmPlan forced =
        MakeForcedGemmPlan({row.max_m, row.n, row.k}, variant, row.cluster, {}, row.cut);
    EXPECT_EQ(forced.cuts_tiles(), row.cut) << forced.why;
    const Products products =
        forced.kernel().kernel == GemmKernel::kWide ? Products::kTable : Products::kExact;
    const GemmPlan planned = MakeGemmPlan({row.max_m, row.n, row.k}, products);
    EXPECT_EQ(planned.variant, variant) << planned.why;
    EXPECT_EQ(planned.whole_tiles, forced.whole_tiles) << planned.why;
  }
}

TEST(GemmI4F8Plan, RefusesWhatNoKernelComputes) {
  EXPECT_THROW(MakeGemmPlan({1, 96, 128}, Products::kExact), Error);
  EXPECT_THROW(MakeGemmPlan({1, 64, 100}, Products::kExact), Error);
  EXPECT_THROW(MakeGemmPlan({0, 64, 128}, Products::kExact), Error);
  EXPECT_THROW(MakeForcedGemmPlan({1, 64, 128}, 0, 2), Error);  // one step cannot be shared
  EXPECT_THROW(MakeForcedGemmPlan({1, 64, 128}, 99, 1), Error);
}

TEST(GemmI4F8Plan, RegistersFitTheFile) {
  EXPECT_EQ(ConsumerRegisters(384, 56), 224);
  EXPECT_LE(ConsumerRegisters(512, 56) * 384 + 56 * 128, 65536);
}

TEST(ResidentGemmPlan, ServesOneTokenThatFitsAndNothingElse) {
  const auto name = [](int64_t m, int64_t n, int64_t k, Products products = Products::kServed) {
    const auto plan = MakeResidentGemmPlan({m, n, k}, products);
    return plan ? std::string(plan->kernel().name) : "none";
  };
  EXPECT_EQ(name(1, 6144, 4096), "exact_8x64_resident40");
  EXPECT_EQ(name(1, 4096, 14336), "exact_8x64_resident112");
  EXPECT_EQ(name(2, 28672, 4096), "none");
  EXPECT_EQ(name(1, 8192, 28672), "none");  // too long
  EXPECT_EQ(name(1, 1536, 4096 + 64), "none");
  EXPECT_EQ(name(1, 6144, 4096, Products::kTable), "none");
}

}  // namespace
}  // namespace fireq::sm90
