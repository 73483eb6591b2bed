#include "fireq/backends/sm90/runtime/spread.h"

#include <cstdlib>

#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {

int SpreadSharedBytes(const void* kernel, int64_t ctas, int static_bytes) {
  constexpr int kPerSm = 227 << 10;   // of a multiprocessor, for CTAs
  constexpr int kReserved = 1 << 10;  // the driver's, of every CTA
  constexpr int kMostShared = 8;      // beyond, shares are nearly even anyway
  static const bool off = std::getenv("FIREQ_NO_SPREAD") != nullptr;
  const int64_t share = CeilDiv<int64_t>(ctas, NumSms());
  if (share < 2 || share > kMostShared || off) return 0;
  const int bytes = kPerSm / static_cast<int>(share) - kReserved - static_bytes;
  FIREQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  return bytes;
}

}  // namespace fireq::sm90
