#include "fireq/backends/sm90/peer_sum/plan.h"

#include <algorithm>

namespace fireq::sm90 {
namespace {

// All that a rank sends for one sum: every other rank gets the whole message.
constexpr int64_t kMaxSentBytes = int64_t{4} << 20;

}  // namespace

PeerBoxLayout MakePeerBoxLayout(int ranks) {
  const int64_t bytes = kMaxSentBytes / std::max(1, ranks - 1);
  return {bytes / kPeerVectorBytes * kPeerVectorBytes, ranks};
}

}  // namespace fireq::sm90
