#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/small_copy/launch.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kVector = sizeof(uint4);

// A vector a thread; the first threads also have the bytes behind the last whole one.
__global__ void __launch_bounds__(kThreads)
    SmallCopyKernel(const uint8_t* from, uint8_t* to, int64_t bytes) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t vectors = bytes / kVector;
  if (index < vectors)
    reinterpret_cast<uint4*>(to)[index] = reinterpret_cast<const uint4*>(from)[index];
  if (index < bytes % kVector) to[vectors * kVector + index] = from[vectors * kVector + index];
}

}  // namespace

void LaunchSmallCopy(const void* from, void* to, int64_t bytes, cudaStream_t stream) {
  FIREQ_CHECK(bytes <= kSmallCopyBytes, kInvalidArgument, "a small copy of ", bytes, " bytes");
  if (bytes <= 0) return;
  const auto ctas = static_cast<unsigned>(CeilDiv<int64_t>(bytes, kThreads * kVector));
  SmallCopyKernel<<<ctas, kThreads, 0, stream>>>(static_cast<const uint8_t*>(from),
                                                 static_cast<uint8_t*>(to), bytes);
  CheckLaunch("small_copy");
}

}  // namespace fireq::sm90
