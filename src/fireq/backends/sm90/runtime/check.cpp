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

std::string OldDriver() {
  int count = 0, driver = 0;  // a machine without a driver has one of version 0
  if (cudaGetDeviceCount(&count) != cudaErrorInsufficientDriver) return "";
  static_cast<void>(cudaGetLastError());
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "";
  const auto version = [](int number) { return StrCat(number / 1000, ".", number % 1000 / 10); };
  return StrCat("the NVIDIA driver is of CUDA ", version(driver), ", too old for this build's ",
                version(CUDART_VERSION));
}

void UseHopper(int device) {
  const std::string old = OldDriver();
  FIREQ_CHECK(old.empty(), kUnsupported, "device cuda:", device, ": ", old);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
  FIREQ_CHECK(status == cudaSuccess, kUnsupported, "device cuda:", device,
              ": CUDA finds no GPU here: ", cudaGetErrorString(status));
  FIREQ_CHECK(device < count, kUnsupported, "device cuda:", device, ": the GPUs here number ",
              count, ", from cuda:0 on");
  FIREQ_CUDA(cudaSetDevice(device));
  FIREQ_CHECK(HasHopper(), kUnsupported, "device cuda:", device,
              " is no Hopper GPU (compute capability 9.0)");
}

int NumSms() {
  int device = 0;
  int count = 0;
  FIREQ_CUDA(cudaGetDevice(&device));
  FIREQ_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace fireq::sm90
