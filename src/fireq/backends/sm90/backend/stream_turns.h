// The turns of a GPU's streams.
//
// CTAs of some kernels wait for others of the same kernel (tiles cut along K, one token's chain,
// ranks). Two of them on two streams could each have half of the multiprocessors and wait for ever,
// so all backends of a GPU queue such kernels as on one stream. Kernels that end by themselves need
// no turn: copies, random weights, f32/ and fit/.
#pragma once

#include <memory>

#include "fireq/backends/sm90/backend/turns.h"
#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::sm90 {

// A backend's stream among those of its GPU, of this process. An event is recorded and waited for
// where another stream had the turn before, and nothing is queued where not.
class StreamParty {
 public:
  // On the current device, which is `device`.
  StreamParty(int device, std::shared_ptr<Stream> stream);
  StreamParty(const StreamParty&) = delete;
  StreamParty& operator=(const StreamParty&) = delete;
  ~StreamParty() { turns_.Leave(*this); }

  // For what is queued as long as it lives. A stream captures inside one turn. Throws kCuda.
  [[nodiscard]] HeldTurn Take() { return turns_.Take(*this); }

  void Follow(const StreamParty& before) const;
  void Finish() const noexcept;

 private:
  Turns<StreamParty>& turns_;
  std::shared_ptr<Stream> stream_;
  Event queued_{Event::Timing::kNone};
};

}  // namespace fireq::sm90
