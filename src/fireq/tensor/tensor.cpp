#include "fireq/tensor/tensor.h"

#include <cstdlib>
#include <cstring>

#include "fireq/base/math.h"

namespace fireq {

int64_t NumElements(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count = CheckedMul(count, dim, "tensor size");
  return count;
}

std::string ToString(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

Tensor::Tensor(DType dtype, Shape shape, void* data, std::shared_ptr<void> owner, MemorySpace space)
    : dtype_(dtype),
      space_(space),
      defined_(true),
      shape_(std::move(shape)),
      num_elements_(NumElements(shape_)),
      data_(data),
      owner_(std::move(owner)) {
  FIREQ_CHECK(data_ != nullptr || num_elements_ == 0, kInvalidArgument, "tensor ", ToString(shape_),
              " without data");
}

Tensor Tensor::Empty(DType dtype, Shape shape) {
  constexpr size_t kAlign = 64;
  const int64_t bytes = CheckedMul(NumElements(shape), SizeBytes(dtype), "tensor size in bytes");
  const size_t padded = (static_cast<size_t>(bytes) + kAlign) / kAlign * kAlign;
  void* data = std::aligned_alloc(kAlign, padded);
  FIREQ_CHECK(data != nullptr, kOutOfMemory, "cannot allocate ", bytes, " bytes for a tensor ",
              ToString(shape));
  return Tensor(dtype, std::move(shape), data, std::shared_ptr<void>(data, std::free));
}

Tensor Tensor::Zeros(DType dtype, Shape shape) {
  Tensor out = Empty(dtype, std::move(shape));
  std::memset(out.data(), 0, static_cast<size_t>(out.size_bytes()));
  return out;
}

Tensor Tensor::Rows(int64_t begin, int64_t end) const {
  FIREQ_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= shape_[0], kInvalidArgument,
              "rows ", begin, "..", end, " of a tensor ", ToString(shape_));
  Tensor out = *this;
  const int64_t row = shape_[0] > 0 ? num_elements_ / shape_[0] : 0;
  out.shape_[0] = end - begin;
  out.num_elements_ = row * (end - begin);
  out.data_ = static_cast<char*>(data_) + begin * row * SizeBytes(dtype_);
  return out;
}

Tensor Tensor::Reshape(Shape shape) const {
  FIREQ_CHECK(NumElements(shape) == num_elements_, kShapeMismatch, "reshape of ", ToString(shape_),
              " to ", ToString(shape));
  Tensor out = *this;
  out.shape_ = std::move(shape);
  return out;
}

Tensor Tensor::WithDType(DType dtype) const {
  FIREQ_CHECK(SizeBytes(dtype) == SizeBytes(dtype_), kInvalidArgument, "view of ", Name(dtype_),
              " as ", Name(dtype));
  Tensor out = *this;
  out.dtype_ = dtype;
  return out;
}

}  // namespace fireq
