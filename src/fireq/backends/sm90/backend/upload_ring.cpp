#include "fireq/backends/sm90/backend/upload_ring.h"

#include <cstring>

#include "fireq/backends/sm90/backend/prepared.h"

namespace fireq::sm90 {

void UploadRing::Upload(const Tensor& host, const Tensor& to, const Stream& stream,
                        const SmallCopy& beside) {
  if (host.size_bytes() <= kSlotBytes) {
    Copy(host.data(), host.size_bytes(), to.data(), beside, stream.get());
  } else {
    LaunchSmallCopy(beside, {}, stream.get());
    CopyToDevice(host, to, stream);
  }
}

void UploadRing::Copy(const void* from, int64_t bytes, void* to, const SmallCopy& beside,
                      cudaStream_t stream) {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  slot.copied.Synchronize();
  std::memcpy(slot.memory.data(), from, static_cast<size_t>(bytes));
  if (bytes <= kSmallCopyBytes) {
    LaunchSmallCopy({slot.memory.data(), to, bytes}, beside, stream);
  } else {
    LaunchSmallCopy(beside, {}, stream);
    FIREQ_CUDA(cudaMemcpyAsync(to, slot.memory.data(), static_cast<size_t>(bytes),
                               cudaMemcpyHostToDevice, stream));
  }
  slot.copied.Record(stream);
}

}  // namespace fireq::sm90
