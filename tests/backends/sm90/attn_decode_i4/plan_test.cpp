#include "fireq/backends/sm90/attn_decode_i4/plan.h"

#include <gtest/gtest.h>

#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

TEST(AttnDecodePlan, FitsSharedMemoryForEverySupportedShape) {
  for (const int64_t dim : {64, 128}) {
    for (const int64_t sequences : {0, 1, 256, 2048}) {
      for (const int64_t queries : {1, 8}) {
        const AttnDecodePlan plan = MakeAttnDecodePlan({sequences, 32, 8, dim, queries, 132});
        EXPECT_EQ(plan.ctas, 132 * DecodeCtasPerSm(plan.rows));
        EXPECT_GE(plan.stages, DecodeWarps(plan.rows));
        EXPECT_LE(plan.stages, kDecodeMaxStages);
        EXPECT_EQ(plan.stages % DecodeWarps(plan.rows), 0);
        EXPECT_LE(DecodeCtasPerSm(plan.rows) * (plan.shared.bytes + 1024), 228 * 1024);
        EXPECT_EQ(plan.shared.sums % 16, 0);
        EXPECT_EQ(plan.shared.barriers % 8, 0);
        const int64_t prefix = (sequences + 1) * 4 + (-(sequences + 1) * 4 & 15);
        EXPECT_EQ(plan.shared.prefix + (plan.finishes ? 0 : prefix), plan.shared.bytes);
      }
    }
  }
}

TEST(AttnDecodePlan, RowTilesHoldEveryQueryRow) {
  EXPECT_EQ(MakeAttnDecodePlan({1, 32, 8, 128, 1, 132}).rows, 8);
  EXPECT_EQ(MakeAttnDecodePlan({1, 32, 8, 128, 2, 132}).rows, 8);
  EXPECT_EQ(MakeAttnDecodePlan({1, 32, 8, 128, 4, 132}).rows, 16);
  for (int64_t queries = 1; queries <= 8; ++queries) {
    const AttnDecodePlan plan = MakeAttnDecodePlan({3, 28, 4, 128, queries, 132});
    EXPECT_GE(plan.rows * plan.row_tiles, 7 * queries);
    EXPECT_LT(plan.rows * (plan.row_tiles - 1), 7 * queries);
  }
}

// Whole clusters, and hardly fewer cuts than CTAs allow.
TEST(AttnDecodePlan, CutsSegmentsIntoWholeClusters) {
  for (const int64_t sms : {132, 114, 131}) {
    for (int64_t sequences = 1; sequences <= 40; ++sequences) {
      for (const int64_t max_pages : {0, 1, 16, 17, 32, 33, 2000}) {
        const AttnDecodePlan plan = MakeAttnDecodePlan({sequences, 32, 8, 128, 1, sms, max_pages});
        const int64_t possible = plan.ctas / (sequences * 8);
        EXPECT_EQ(plan.ctas % plan.cluster, 0);
        EXPECT_EQ(plan.cuts % plan.cluster, 0);
        EXPECT_LE(plan.cuts, possible);
        EXPECT_GE(8 * plan.cuts, 7 * possible);
        EXPECT_LE(plan.cluster, max_pages == 0 || max_pages > 32 ? 2 : max_pages > 16 ? 8 : 4);
      }
    }
  }
  EXPECT_EQ(MakeAttnDecodePlan({1, 32, 8, 128, 1, 132, 16}).cluster, 4);
  EXPECT_EQ(MakeAttnDecodePlan({1, 32, 8, 128, 1, 132, 17}).cluster, 8);
  EXPECT_EQ(MakeAttnDecodePlan({4, 32, 8, 128, 1, 132, 16}).cluster, 4);
  EXPECT_EQ(MakeAttnDecodePlan({4, 32, 8, 128, 1, 132, 17}).cluster, 2);
  EXPECT_EQ(MakeAttnDecodePlan({1, 32, 8, 128, 1, 132}).cluster, 2);
  EXPECT_EQ(MakeAttnDecodePlan({64, 32, 8, 128, 1, 132}).cluster, 1);
}

// Where no segment can be cut and registers allow it.
TEST(AttnDecodePlan, AWarpFinishesWhereACtaHasManySegments) {
  EXPECT_FALSE(MakeAttnDecodePlan({1, 32, 8, 128, 1, 132}).finishes);
  EXPECT_FALSE(MakeAttnDecodePlan({33, 32, 8, 128, 1, 132}).finishes);
  EXPECT_TRUE(MakeAttnDecodePlan({34, 32, 8, 128, 1, 132}).finishes);
  EXPECT_TRUE(MakeAttnDecodePlan({256, 32, 32, 128, 1, 132}).finishes);
  EXPECT_FALSE(MakeAttnDecodePlan({256, 32, 8, 128, 4, 132}).finishes);
}

// Lists leave the ring its pages, however many sequences there are.
TEST(AttnDecodePlan, FinishesAsManySequencesAsListsCount) {
  const AttnDecodePlan most = MakeAttnDecodePlan({kDecodeMostListed, 32, 8, 128, 1, 132});
  EXPECT_TRUE(most.finishes);
  EXPECT_EQ(most.stages, MakeAttnDecodePlan({34, 32, 8, 128, 1, 132}).stages);
  const AttnDecodePlan many = MakeAttnDecodePlan({12000, 32, 8, 128, 1, 132});
  EXPECT_FALSE(many.finishes);
  EXPECT_GE(many.stages, DecodeWarps(many.rows));
  EXPECT_LE(2 * (many.shared.bytes + 1024), 228 * 1024);
  EXPECT_THROW(MakeAttnDecodePlan({16000, 32, 8, 128, 1, 132}), Error);
  // What short segments cost more is counted in 16 bits.
  EXPECT_LE(kDecodeMostListed * (kDecodeLeastCost - 1), 0xFFFF);
  EXPECT_FALSE(MakeAttnDecodePlan({kDecodeMostListed + 1, 32, 8, 64, 1, 132}).finishes);
}

TEST(AttnDecodePlan, ListsHoldEveryPage) {
  EXPECT_EQ(MakeAttnDecodePlan({33, 32, 8, 128, 1, 132, 32}).lists_bytes, 0);
  EXPECT_EQ(MakeAttnDecodePlan({256, 32, 8, 128, 1, 132, 32}).lists_bytes,
            264 * 128 + (2048 + 264) * 32 + 2048 * 32 * 4);
}

TEST(AttnDecodePlan, WritesTokensOfDecodeStepsOnly) {
  const AttnDecodeShape decode{33, 32, 8, 128, 1, 132};
  EXPECT_TRUE(DecodeCanWriteTokens(decode, false, false));
  EXPECT_TRUE(DecodeCanWriteTokens({1, 64, 8, 64, 1, 132}, false, false));
  EXPECT_FALSE(DecodeCanWriteTokens(decode, true, false));
  EXPECT_FALSE(DecodeCanWriteTokens(decode, false, true));
  EXPECT_FALSE(DecodeCanWriteTokens({1, 32, 8, 128, 2, 132}, false, false));
  EXPECT_FALSE(DecodeCanWriteTokens({1, 72, 8, 128, 1, 132}, false, false));
  EXPECT_FALSE(DecodeCanWriteTokens({1, 32, 8, 128, 100, 132}, false, false));
  EXPECT_FALSE(DecodeCanWriteTokens({34, 32, 8, 128, 1, 132}, false, false));  // a warp finishes
  for (AttnDecodeShape shape :
       {AttnDecodeShape{1, 32, 8, 128, 4, 132}, AttnDecodeShape{34, 32, 8, 128, 1, 132}}) {
    shape.writes_tokens = true;
    EXPECT_THROW(MakeAttnDecodePlan(shape), Error);
  }
}

// What it takes costs no page of the ring where models of today decode.
TEST(AttnDecodePlan, WritingTokensTakesNoStage) {
  for (const int64_t dim : {64, 128}) {
    for (const int64_t sequences : {1, 4, 16, 33}) {
      AttnDecodeShape shape{sequences, 32, 8, dim, 1, 132, 32};
      const AttnDecodePlan apart = MakeAttnDecodePlan(shape);
      shape.writes_tokens = true;
      const AttnDecodePlan fused = MakeAttnDecodePlan(shape);
      EXPECT_EQ(fused.stages, apart.stages);
      EXPECT_EQ(fused.cuts, apart.cuts);
      EXPECT_EQ(fused.cluster, apart.cluster);
      EXPECT_EQ(fused.finishes, apart.finishes);
      EXPECT_LE(2 * (fused.shared.bytes + 1024), 228 * 1024);
      EXPECT_EQ(fused.shared.older % 8, 0);
      EXPECT_EQ(fused.shared.flag % 16, 0);
      EXPECT_EQ(apart.shared.older, apart.shared.table);
    }
  }
}

TEST(AttnDecodePlan, RefusesWhatNoKernelDoes) {
  EXPECT_THROW(MakeAttnDecodePlan({1, 32, 8, 96, 1, 132}), Error);
  EXPECT_THROW(MakeAttnDecodePlan({1, 30, 8, 128, 1, 132}), Error);
  EXPECT_THROW(MakeAttnDecodePlan({1 << 20, 32, 8, 128, 1, 132}), Error);
}

}  // namespace
}  // namespace fireq::sm90
