#include "fireq/backends/sm90/backend/dense_gemm.h"

#include <algorithm>
#include <utility>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/token_rows/launch.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

cudaDataType_t CudaType(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kF32:
      return CUDA_R_32F;
    default:
      Throw(ErrorCode::kUnsupported, StrCat("a dense product of ", Name(dtype)));
  }
}

}  // namespace

DenseGemm::DenseGemm(std::shared_ptr<Stream> stream) : gemm_(std::move(stream)) {}

// Column-major: y^T [N, M] = w [N, K] . x^T, w stored as K x N transposed.
const LtProblem& DenseGemm::ProblemFor(const Tensor& x, const Tensor& w, const Tensor& y) {
  const int64_t m = x.dim(0), n = w.dim(0), k = w.dim(1);
  auto& slot = problems_[{m, n, k, w.dtype(), y.dtype()}];
  if (!slot) {
    slot = gemm_.Prepare({.a = {CudaType(w.dtype()), k, n, k},
                          .b = {CudaType(w.dtype()), k, m, k},
                          .c = {CudaType(y.dtype()), n, m, n},
                          .transpose_a = true});
  }
  return *slot;
}

Tensor DenseGemm::AsHalf(const Tensor& x) {
  Reserve(x.dim(0), x.dim(1), DType::kF16);
  LaunchBf16ToHalf(x.as<bf16_t>(), x.num_elements(), half_x_.as<uint16_t>(), gemm_.stream()->get());
  return half_x_;
}

void DenseGemm::Run(const Tensor& x, const Tensor& w, const Tensor& y) {
  if (x.dim(0) == 0) return;
  const Tensor operand = w.dtype() == DType::kF16 ? AsHalf(x) : x;
  gemm_.Run(ProblemFor(x, w, y), 1.0f, w.data(), operand.data(), 0.0f, y.data());
}

int64_t DenseGemm::Reserve(int64_t rows, int64_t k, DType w) {
  if (w != DType::kF16) return 0;
  if (!half_x_.defined() || half_x_.num_elements() < rows * k)
    half_x_ = AllocateDevice(gemm_.stream(), DType::kF16, {rows * k});
  return half_x_.size_bytes();
}

int64_t DenseGemm::ReserveBlocks(int64_t n, int64_t k, DType y) {
  const Shape x_shape = {kBlockRows, k};
  const Shape y_shape = {kBlockRows, n};
  if (!block_x_.defined() || block_x_.shape() != x_shape || block_y_.shape() != y_shape ||
      block_y_.dtype() != y) {
    const std::shared_ptr<Stream>& stream = gemm_.stream();
    block_x_ = AllocateDevice(stream, DType::kBF16, x_shape);
    block_y_ = AllocateDevice(stream, y, y_shape);
    // Rows that no block fills are multiplied, too, and their results dropped.
    FIREQ_CUDA(cudaMemsetAsync(block_x_.data(), 0, static_cast<size_t>(block_x_.size_bytes()),
                               stream->get()));
  }
  return block_x_.size_bytes() + block_y_.size_bytes();
}

void DenseGemm::RunInBlocks(const Tensor& x, const Tensor& w, const Tensor& y) {
  ReserveBlocks(w.dim(0), w.dim(1), y.dtype());
  const auto copy = [&](const Tensor& from, const Tensor& to) {
    FIREQ_CUDA(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(from.size_bytes()),
                               cudaMemcpyDeviceToDevice, gemm_.stream()->get()));
  };
  for (int64_t begin = 0; begin < x.dim(0); begin += kBlockRows) {
    const int64_t end = std::min(begin + kBlockRows, x.dim(0));
    copy(x.Rows(begin, end), block_x_);
    Run(block_x_, w, block_y_);
    copy(block_y_.Rows(0, end - begin), y.Rows(begin, end));
  }
}

}  // namespace fireq::sm90
