#include <algorithm>

#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/small_copy/launch.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kVector = sizeof(uint4);

// A vector a thread; the first threads also have the bytes behind the last whole one.
__global__ void __launch_bounds__(kThreads) SmallCopyKernel(SmallCopy copy, SmallCopy beside) {
  const SmallCopy& c = blockIdx.y == 0 ? copy : beside;
  const auto* from = static_cast<const uint8_t*>(c.from);
  auto* to = static_cast<uint8_t*>(c.to);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t vectors = c.bytes / kVector;
  if (index < vectors)
    reinterpret_cast<uint4*>(to)[index] = reinterpret_cast<const uint4*>(from)[index];
  if (index < c.bytes % kVector) to[vectors * kVector + index] = from[vectors * kVector + index];
}

}  // namespace

void LaunchSmallCopy(const SmallCopy& copy, const SmallCopy& beside, cudaStream_t stream) {
  const int64_t bytes = std::max(copy.bytes, beside.bytes);
  FIREQ_CHECK(bytes <= kSmallCopyBytes, kInvalidArgument, "a small copy of ", bytes, " bytes");
  if (bytes <= 0) return;
  const auto ctas = static_cast<unsigned>(CeilDiv<int64_t>(bytes, kThreads * kVector));
  const unsigned copies = beside.bytes > 0 ? 2 : 1;
  SmallCopyKernel<<<dim3(ctas, copies), kThreads, 0, stream>>>(copy, beside);
  CheckLaunch("small_copy");
}

}  // namespace fireq::sm90
