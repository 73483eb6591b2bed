// Copies between device memory and the host's pinned memory by a kernel. Between two kernels a copy
// engine costs a change of engines on either side, 5 to 15 us each (seen in a timeline); a kernel
// that reads over PCIe costs its latency alone.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fireq::sm90 {

// What is longer is for a copy engine.
inline constexpr int64_t kSmallCopyBytes = int64_t{64} << 10;

// Both ends 16-byte aligned, `bytes` at most kSmallCopyBytes; either may be pinned host memory.
struct SmallCopy {
  const void* from = nullptr;
  void* to = nullptr;
  int64_t bytes = 0;
};

// `copy` and, in no order with it, `beside`. Asynchronous on `stream`, may be captured. Errors:
// kInvalidArgument, kCuda.
void LaunchSmallCopy(const SmallCopy& copy, const SmallCopy& beside, cudaStream_t stream);

}  // namespace fireq::sm90
