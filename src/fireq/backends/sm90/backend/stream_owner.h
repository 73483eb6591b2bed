// The stream a backend's ops are queued on, for what is to run in order with them.
#pragma once

#include <memory>

#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::sm90 {

class StreamOwner {
 public:
  virtual ~StreamOwner() = default;
  virtual const Stream& stream() const = 0;
  // The same for tensors that are to keep it alive.
  virtual std::shared_ptr<Stream> shared_stream() const = 0;
};

}  // namespace fireq::sm90
