#include "fireq/backends/sm90/peer_sum/plan.h"

#include <algorithm>

namespace fireq::sm90 {
namespace {

// All that a rank sends for one sum: every other rank gets the whole message.
constexpr int64_t kMaxSentBytes = int64_t{4} << 20;
// Beyond them rows have owners.
constexpr int64_t kMostSentToAll = int64_t{2} << 20;

}  // namespace

PeerBoxLayout MakePeerBoxLayout(int ranks) {
  const int64_t bytes = kMaxSentBytes / std::max(1, ranks - 1);
  return {bytes / kPeerVectorBytes * kPeerVectorBytes, ranks};
}

bool RanksOwnRows(const PeerBoxLayout& layout, int64_t rows, int64_t k) {
  const int64_t bytes = rows * k * 2;
  return layout.ranks > 2 && layout.ranks <= kMaxOwningRanks && layout.Takes(bytes) &&
         k % 64 == 0 && k <= kMaxPeerSumNormK && bytes * (layout.ranks - 1) > kMostSentToAll;
}

}  // namespace fireq::sm90
