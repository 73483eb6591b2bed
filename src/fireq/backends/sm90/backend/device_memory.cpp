#include "fireq/backends/sm90/backend/device_memory.h"

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {

Tensor AllocateDevice(const std::shared_ptr<Stream>& stream, DType dtype, Shape shape) {
  const int64_t bytes = NumElements(shape) * SizeBytes(dtype);
  void* data = nullptr;
  // Kernels read in 16-byte pieces, so an empty tensor still has an address.
  const cudaError_t status =
      cudaMallocAsync(&data, static_cast<size_t>(bytes > 0 ? bytes : 16), stream->get());
  CheckCuda(status, StrCat("allocating ", bytes, " bytes for a tensor ", ToString(shape)));
  std::shared_ptr<void> owner(
      data, [stream](void* address) { static_cast<void>(cudaFreeAsync(address, stream->get())); });
  return Tensor(dtype, std::move(shape), data, std::move(owner), MemorySpace::kDevice);
}

void KeepFreedMemory(int device) {
  cudaMemPool_t pool = nullptr;
  FIREQ_CUDA(cudaDeviceGetDefaultMemPool(&pool, device));
  uint64_t threshold = UINT64_MAX;
  FIREQ_CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
}

}  // namespace fireq::sm90
