// Owned device memory. Move-only; freed on destruction, which synchronises the device.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {

template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // `count` elements, uninitialised. Throws kOutOfMemory.
  explicit DeviceBuffer(int64_t count) : count_(count) {
    if (count > 0)
      FIREQ_CUDA(cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(size_bytes())));
  }
  // A copy of `host`; returns when it has been made.
  explicit DeviceBuffer(const std::vector<T>& host)
      : DeviceBuffer(static_cast<int64_t>(host.size())) {
    CopyFrom(host.data(), count_);
  }
  ~DeviceBuffer() { static_cast<void>(cudaFree(data_)); }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }

  T* data() const { return data_; }
  int64_t count() const { return count_; }
  int64_t size_bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

  void CopyFrom(const T* host, int64_t count) {
    FIREQ_CHECK(count <= count_, kInvalidArgument, "copy of ", count, " into ", count_);
    if (count > 0)
      FIREQ_CUDA(
          cudaMemcpy(data_, host, static_cast<size_t>(count) * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> ToHost() const {
    std::vector<T> host(static_cast<size_t>(count_));
    if (count_ > 0)
      FIREQ_CUDA(cudaMemcpy(host.data(), data_, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  void FillBytes(int value) {
    if (count_ > 0) FIREQ_CUDA(cudaMemset(data_, value, static_cast<size_t>(size_bytes())));
    FIREQ_CUDA(cudaStreamSynchronize(nullptr));  // streams that do not block do not wait for it
  }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace fireq::sm90
