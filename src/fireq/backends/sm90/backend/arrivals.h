// Copies to the host that nobody waits for until the values are wanted.
#pragma once

#include <functional>
#include <memory>

#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/backends/sm90/small_copy/launch.h"
#include "fireq/ops/backend.h"

namespace fireq::sm90 {

// One stream. Pinned memory is used again once its arrival, and the tensor that came of it, is
// gone.
class Arrivals {
 public:
  explicit Arrivals(std::shared_ptr<Stream> stream);

  // In order with the stream's work. A small one is held back until QueueWith, Settle or its Wait:
  // the step behind it begins with an upload, and one kernel does both.
  std::unique_ptr<Arrival> Start(const Tensor& from);
  // Calls `queue`, which queues the copy that it is given, or none, in no order with its own work,
  // which writes `to`.
  void QueueWith(const Tensor& to, const std::function<void(const SmallCopy&)>& queue);
  // Before other work is queued: it may write what a copy that is held back reads.
  void Settle();

 private:
  struct Landing;
  struct State;
  class Loan;
  class Copy;
  std::shared_ptr<State> state_;  // an arrival may outlive the backend
};

}  // namespace fireq::sm90
