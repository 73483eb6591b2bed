// The walk around a ring of pipeline stages.
#pragma once

#include <cstdint>

namespace fireq::sm90 {

// A place in the ring: stage and the parity to wait for. A consumer starts with parity 0,
// a producer (whose first waits must pass) with 1.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace fireq::sm90
