#include "fireq/backends/sm90/gemm_i4f8/block_plan.h"

#include <gtest/gtest.h>

namespace fireq::sm90 {
namespace {

TEST(BlockPlan, SpreadsHeadsOverAllCtas) {
  const auto spread = SpreadBlockHeads({32, 8, 128, 32}, {});
  ASSERT_TRUE(spread);
  EXPECT_EQ(spread->ctas, 16);
  EXPECT_EQ(spread->items(), 128);
}

TEST(BlockPlan, EveryPageAndItemHasACta) {
  for (const int64_t kv_heads : {1, 2, 3, 4, 5, 8, 16, 32})
    for (int64_t rows = 1; rows <= 9; ++rows)
      for (const int64_t max_pages : {1, 2, 16, 17, 32, 33, 64, 65, 128})
        for (const int clusters : {1, 30, 57, 66}) {
          GemmDevice device;
          device.max_clusters.fill(clusters);
          const auto spread = SpreadBlockHeads({kv_heads * rows, kv_heads, 128, max_pages}, device);
          if (!spread) continue;
          EXPECT_LE(spread->ctas * kv_heads, 2 * clusters);
          EXPECT_LE(max_pages, kBlockSlots * spread->ctas);
          EXPECT_LE(max_pages * kBlockItems, 512);  // threads
          EXPECT_LE(spread->items(), kBlockItems * spread->ctas);
          EXPECT_LE(spread->items(), kBlockMostItems);
          EXPECT_GE(2 << spread->column_shift, rows);
        }
}

TEST(BlockPlan, RefusesWhatAttentionDoesAlone) {
  EXPECT_FALSE(SpreadBlockHeads({32, 8, 64, 16}, {}));
  EXPECT_FALSE(SpreadBlockHeads({32, 8, 128, 64}, {}));   // too many pages
  EXPECT_FALSE(SpreadBlockHeads({32, 32, 128, 16}, {}));  // four CTAs a head
  EXPECT_FALSE(SpreadBlockHeads({64, 8, 128, 16}, {}));   // o too long
  EXPECT_FALSE(SpreadBlockHeads({36, 4, 128, 16}, {}));   // nine rows
  EXPECT_FALSE(SpreadBlockHeads({40, 8, 128, 16}, {}));   // 256 items for 16 CTAs
  EXPECT_FALSE(SpreadBlockHeads({32, 0, 128, 16}, {}));
  EXPECT_TRUE(SpreadBlockHeads({28, 4, 128, 32}, {}));
}

// What a link writes to words must not reach what others' words may be.
TEST(BlockPlan, OutputsHaveWords) {
  EXPECT_TRUE(BlockLinkHasWords(kQkvPlace, 15360));
  EXPECT_FALSE(BlockLinkHasWords(kQkvPlace, 15364));
  for (const int place : {kOPlace, kDownPlace}) {
    EXPECT_TRUE(BlockLinkHasWords(place, 5120));
    EXPECT_FALSE(BlockLinkHasWords(place, 5124));
  }
  EXPECT_TRUE(BlockLinkHasWords(kGateUpPlace, 14336));
  EXPECT_TRUE(BlockLinkHasWords(kGateUpPlace, 18944));   // Qwen2.5-7B, whose down is no link
  EXPECT_FALSE(BlockLinkHasWords(kGateUpPlace, 32768));  // Mistral-Small-24B
}

TEST(BlockPlan, WhoAddsHasWrittenWhatItAddsTo) {
  EXPECT_TRUE(BlockLinkAddsToItsOwn(kOPlace, 4096));
  EXPECT_FALSE(BlockLinkAddsToItsOwn(kOPlace, 1024));
  EXPECT_FALSE(BlockLinkAddsToItsOwn(kDownPlace, 1024));
  EXPECT_TRUE(BlockLinkAddsToItsOwn(kDownPlace, 1152));
  EXPECT_TRUE(BlockLinkAddsToItsOwn(kGateUpPlace, 1024));
}

}  // namespace
}  // namespace fireq::sm90
