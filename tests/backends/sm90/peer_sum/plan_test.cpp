#include "fireq/backends/sm90/peer_sum/plan.h"

#include <gtest/gtest.h>

#include <set>

namespace fireq::sm90 {
namespace {

TEST(PeerBoxLayout, SlotsOfBothTurnsAndAllRanksFillTheBoxWithoutOverlap) {
  for (int ranks = 2; ranks <= kMaxPeerRanks; ++ranks) {
    const PeerBoxLayout layout = MakePeerBoxLayout(ranks);
    ASSERT_EQ(layout.ranks, ranks);
    ASSERT_GT(layout.slot_bytes, 0);
    EXPECT_EQ(layout.slot_bytes % kPeerVectorBytes, 0) << ranks;
    std::set<int64_t> begins;
    for (int turn = 0; turn < 2; ++turn)
      for (int rank = 0; rank < ranks; ++rank) begins.insert(layout.slot(turn, rank));
    int64_t end = 0;
    for (const int64_t begin : begins) {
      EXPECT_EQ(begin, end);
      end = begin + layout.slot_bytes;
    }
    EXPECT_EQ(std::ssize(begins), 2 * ranks);
    EXPECT_EQ(end, layout.size_bytes());
  }
}

// The more ranks, the shorter the longest message: each other rank is sent all of it.
TEST(PeerBoxLayout, ARankSendsFourMebibytesAtMost) {
  for (int ranks = 2; ranks <= kMaxPeerRanks; ++ranks) {
    const int64_t slot = MakePeerBoxLayout(ranks).slot_bytes;
    EXPECT_LE(slot * (ranks - 1), int64_t{4} << 20);
    EXPECT_GT((slot + kPeerVectorBytes) * (ranks - 1), int64_t{4} << 20);
  }
}

TEST(PeerBoxLayout, TakesWholeVectorsUpToASlot) {
  const PeerBoxLayout layout = MakePeerBoxLayout(4);
  EXPECT_TRUE(layout.Takes(0));
  EXPECT_TRUE(layout.Takes(kPeerVectorBytes));
  EXPECT_FALSE(layout.Takes(kPeerVectorBytes - 2));
  EXPECT_TRUE(layout.Takes(layout.slot_bytes));
  EXPECT_FALSE(layout.Takes(layout.slot_bytes + kPeerVectorBytes));
  EXPECT_FALSE(MakePeerBoxLayout(1).Takes(kPeerVectorBytes));  // nobody to add to
}

// Of three or four ranks, where a rank would send everybody more than two mebibytes.
TEST(PeerBoxLayout, RowsOfLongMessagesHaveOwners) {
  const PeerBoxLayout four = MakePeerBoxLayout(4);
  EXPECT_TRUE(RanksOwnRows(four, 64, 8192));
  EXPECT_TRUE(RanksOwnRows(four, 43, 8192));
  EXPECT_FALSE(RanksOwnRows(four, 42, 8192));
  EXPECT_FALSE(RanksOwnRows(four, 86, 8192));  // too long for a slot
  EXPECT_FALSE(RanksOwnRows(four, 64, 8200));
  EXPECT_FALSE(RanksOwnRows(four, 32, 16384));
  EXPECT_TRUE(RanksOwnRows(MakePeerBoxLayout(3), 128, 8192));
  EXPECT_FALSE(RanksOwnRows(MakePeerBoxLayout(2), 128, 8192));
  EXPECT_FALSE(RanksOwnRows(MakePeerBoxLayout(8), 36, 8192));
}

}  // namespace
}  // namespace fireq::sm90
