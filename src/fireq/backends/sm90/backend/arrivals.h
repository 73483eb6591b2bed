// Copies to the host that nobody waits for until the values are wanted.
#pragma once

#include <memory>
#include <vector>

#include "fireq/backends/sm90/runtime/pinned_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/ops/backend.h"

namespace fireq::sm90 {

// One stream. Pinned memory is used again once its arrival, and the tensor that came of it, is
// gone.
class Arrivals {
 public:
  std::unique_ptr<Arrival> Start(const Tensor& from, cudaStream_t stream);

 private:
  struct Landing {
    PinnedBuffer memory;
    Event copied{Event::Timing::kNone};
  };
  using Free = std::vector<std::unique_ptr<Landing>>;
  class Loan;
  class Copy;
  std::shared_ptr<Free> free_ = std::make_shared<Free>();  // an arrival may outlive the backend
};

}  // namespace fireq::sm90
