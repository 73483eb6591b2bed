// Owned host memory that the GPU copies from and to while the host goes on. Move-only.
#pragma once

#include <cstdint>
#include <memory>

#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {

class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  // Uninitialised. Throws kOutOfMemory.
  explicit PinnedBuffer(int64_t bytes) : bytes_(bytes) {
    void* memory = nullptr;
    FIREQ_CUDA(cudaMallocHost(&memory, static_cast<size_t>(bytes)));
    memory_.reset(memory);
  }
  void* data() const { return memory_.get(); }
  int64_t size_bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* memory) const { static_cast<void>(cudaFreeHost(memory)); }
  };
  std::unique_ptr<void, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace fireq::sm90
