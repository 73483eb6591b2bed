// A rank's end of the boxes, as kernels get it.
#pragma once

#include <array>
#include <cstdint>

#include "fireq/backends/sm90/peer_sum/plan.h"

namespace fireq::sm90 {

inline constexpr int kPeerSumCtas = 128;

struct PeerEnd {
  PeerBoxLayout layout;
  std::array<uint8_t*, kMaxPeerRanks> boxes{};  // of every rank, as this rank's GPU addresses them
  uint32_t* calls = nullptr;                    // [kPeerSumCtas], this rank's: sums so far
  const uint32_t* stop = nullptr;               // not 0: a rank has failed, wait for nobody
  int rank = 0;
};

}  // namespace fireq::sm90
