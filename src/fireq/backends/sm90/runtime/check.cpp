#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {

void CheckCuda(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  const ErrorCode code =
      status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kCuda;
  Throw(code, StrCat(what, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status)));
}

bool HasHopper() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());  // "no device" must not surface in a later check
    return false;
  }
  int device = 0;
  int major = 0;
  FIREQ_CUDA(cudaGetDevice(&device));
  FIREQ_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9;
}

int NumSms() {
  int device = 0;
  int count = 0;
  FIREQ_CUDA(cudaGetDevice(&device));
  FIREQ_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace fireq::sm90
