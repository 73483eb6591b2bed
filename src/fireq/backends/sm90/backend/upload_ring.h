// Uploads that neither wait for the GPU nor for the caller to keep his bytes, if they are small:
// pinned memory used in turn.
#pragma once

#include <array>
#include <cstdint>

#include "fireq/backends/sm90/runtime/pinned_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/backends/sm90/small_copy/launch.h"
#include "fireq/tensor/tensor.h"

namespace fireq::sm90 {

class UploadRing {
 public:
  // In order with the stream's work; `host` may change on return. One of more than kSlotBytes waits
  // for the stream. `beside` is copied, too, in no order with it. Throws kCuda.
  void Upload(const Tensor& host, const Tensor& to, const Stream& stream,
              const SmallCopy& beside = {});

 private:
  static constexpr int64_t kSlotBytes = int64_t{1} << 20;

  // Of at most kSlotBytes. Waits only for the copy that used the slot before. One stream.
  void Copy(const void* from, int64_t bytes, void* to, const SmallCopy& beside,
            cudaStream_t stream);

  static constexpr int kSlots = 16;
  struct Slot {
    PinnedBuffer memory{kSlotBytes};
    Event copied{Event::Timing::kNone};  // reached at once before the first use
  };
  std::array<Slot, kSlots> slots_;
  size_t next_ = 0;
};

}  // namespace fireq::sm90
