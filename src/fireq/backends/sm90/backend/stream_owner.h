// The stream a backend's ops are queued on, for what is to run in order with them.
#pragma once

#include <functional>
#include <memory>

#include "fireq/backends/sm90/backend/awaited_codes.h"
#include "fireq/backends/sm90/backend/turns.h"
#include "fireq/backends/sm90/peer_sum/params.h"
#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::sm90 {

// A sum over ranks that is asked for and not queued yet: the next op may be the norm of what it
// sums, and one kernel does both.
struct AwaitedSum {
  const void* values = nullptr;
  std::function<void()> run;
  // The sum and the codes of its norm; false if it does not take them, and nothing is queued.
  std::function<bool(const CodesToMake& codes)> run_with_norm;
};

class StreamOwner {
 public:
  virtual ~StreamOwner() = default;
  virtual const Stream& stream() const = 0;
  // The same for tensors that are to keep it alive.
  virtual std::shared_ptr<Stream> shared_stream() const = 0;
  // Queues whatever earlier ops left to be queued with the op behind them. What is to be queued on
  // the stream next, and may wait for other CTAs, is queued inside the turn.
  [[nodiscard]] virtual HeldTurn Settle() { return {}; }
  // Queued before any other op is: at once, if the backend looks for no norm behind it.
  virtual void Await(AwaitedSum sum) { sum.run(); }
  // The product of `linear`, without its epilogue, each row to the box of its owner (GemmEpilogue::
  // kSend); false if it does not go there, and nothing is queued.
  virtual bool SendLinear(const LinearArgs& /*linear*/, const PeerEnd& /*to*/) { return false; }
  // Of `linear` the outputs from number `first` on, to `y` [T, *] instead; false if its outputs are
  // not made apart, and nothing is queued.
  virtual bool PartOfLinear(const LinearArgs& /*linear*/, int64_t /*first*/, const Tensor& /*y*/) {
    return false;
  }
  // linear.largest over the outputs of all ranks, of which each makes an equal part of a matrix
  // that they have whole; false if they are not found so, and nothing is queued.
  virtual bool LargestOfRanks(const LinearArgs& /*linear*/, const PeerEnd& /*end*/) {
    return false;
  }
};

}  // namespace fireq::sm90
