// Small uploads that neither wait for the GPU nor for the caller to keep his bytes: pinned memory
// used in turn.
#pragma once

#include <array>
#include <cstdint>

#include "fireq/backends/sm90/runtime/pinned_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::sm90 {

class UploadRing {
 public:
  static constexpr int64_t kSlotBytes = int64_t{1} << 20;

  // Queues the copy of `bytes` (at most kSlotBytes) to device memory; `from` may change on return.
  // Waits only for the copy that used the slot before. One stream. Throws kCuda.
  void Copy(const void* from, int64_t bytes, void* to, cudaStream_t stream);

 private:
  static constexpr int kSlots = 16;
  struct Slot {
    PinnedBuffer memory{kSlotBytes};
    Event copied;  // reached at once before the first use
  };
  std::array<Slot, kSlots> slots_;
  size_t next_ = 0;
};

}  // namespace fireq::sm90
