// A dense row-major tensor: shared ownership of bytes, a dtype, a shape and the memory it lies in.
//
// Copying a Tensor copies a pointer. Bytes are owned through a shared_ptr, so a view into a mapped
// file keeps the mapping alive and device memory goes back to its backend. Not synchronised.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "fireq/base/error.h"
#include "fireq/tensor/dtype.h"

namespace fireq {

enum class MemorySpace : uint8_t { kHost, kDevice };

using Shape = std::vector<int64_t>;

// Product of the dimensions; 1 for a scalar's empty shape. Throws kInvalidArgument on overflow.
int64_t NumElements(const Shape& shape);

// "[2, 3]"
std::string ToString(const Shape& shape);

class Tensor {
 public:
  Tensor() = default;
  // Bytes at `data`, kept alive by `owner` (aliasing is fine); `data` may be null only if empty.
  Tensor(DType dtype, Shape shape, void* data, std::shared_ptr<void> owner,
         MemorySpace space = MemorySpace::kHost);

  // Host memory, 64-byte aligned, uninitialised. Throws kOutOfMemory.
  static Tensor Empty(DType dtype, Shape shape);
  static Tensor Zeros(DType dtype, Shape shape);
  template <class T>
  static Tensor FromVector(DType dtype, Shape shape, const std::vector<T>& values);

  bool defined() const { return defined_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return static_cast<int>(shape_.size()); }
  int64_t dim(int i) const { return shape_.at(static_cast<size_t>(i)); }
  int64_t num_elements() const { return num_elements_; }
  int64_t size_bytes() const { return num_elements_ * SizeBytes(dtype_); }
  MemorySpace space() const { return space_; }

  void* data() const { return data_; }
  // Typed pointer; T must have the dtype's size (checked in debug builds).
  template <class T>
  T* as() const {
    FIREQ_DCHECK(!defined_ || static_cast<int64_t>(sizeof(T)) == SizeBytes(dtype_));
    return static_cast<T*>(data_);
  }

  // Rows [begin, end) of the first dimension, sharing bytes.
  Tensor Rows(int64_t begin, int64_t end) const;
  // Same bytes, another shape of as many elements.
  Tensor Reshape(Shape shape) const;
  // Same bytes under a dtype of the same size.
  Tensor WithDType(DType dtype) const;

 private:
  DType dtype_ = DType::kF32;
  MemorySpace space_ = MemorySpace::kHost;
  bool defined_ = false;
  Shape shape_;
  int64_t num_elements_ = 0;
  void* data_ = nullptr;
  std::shared_ptr<void> owner_;
};

template <class T>
Tensor Tensor::FromVector(DType dtype, Shape shape, const std::vector<T>& values) {
  Tensor out = Empty(dtype, std::move(shape));
  FIREQ_CHECK(static_cast<int64_t>(values.size() * sizeof(T)) == out.size_bytes(), kShapeMismatch,
              "tensor ", ToString(out.shape()), " from ", values.size(), " values");
  std::copy(values.begin(), values.end(), out.as<T>());
  return out;
}

}  // namespace fireq
