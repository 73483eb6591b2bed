#include "fireq/backends/sm90/backend/bf16_gemm.h"

#include <algorithm>
#include <utility>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {
constexpr int64_t kBlockRows = 16;
}  // namespace

Bf16Gemm::Bf16Gemm(std::shared_ptr<Stream> stream) : gemm_(std::move(stream)) {}

// Column-major: y^T [N, M] = w [N, K] . x^T, w stored as K x N transposed.
const LtProblem& Bf16Gemm::ProblemFor(int64_t m, int64_t n, int64_t k) {
  auto& slot = problems_[{m, n, k}];
  if (!slot) {
    slot = gemm_.Prepare({.a = {CUDA_R_16BF, k, n, k},
                          .b = {CUDA_R_16BF, k, m, k},
                          .c = {CUDA_R_32F, n, m, n},
                          .transpose_a = true});
  }
  return *slot;
}

void Bf16Gemm::Run(const Tensor& x, const Tensor& w, const Tensor& y) {
  if (x.dim(0) == 0) return;
  gemm_.Run(ProblemFor(x.dim(0), w.dim(0), w.dim(1)), 1.0f, w.data(), x.data(), 0.0f, y.data());
}

int64_t Bf16Gemm::ReserveBlocks(int64_t n, int64_t k) {
  const Shape x_shape = {kBlockRows, k};
  const Shape y_shape = {kBlockRows, n};
  if (!block_x_.defined() || block_x_.shape() != x_shape || block_y_.shape() != y_shape) {
    const std::shared_ptr<Stream>& stream = gemm_.stream();
    block_x_ = AllocateDevice(stream, DType::kBF16, x_shape);
    block_y_ = AllocateDevice(stream, DType::kF32, y_shape);
    // Rows that no block fills are multiplied, too, and their results dropped.
    FIREQ_CUDA(cudaMemsetAsync(block_x_.data(), 0, static_cast<size_t>(block_x_.size_bytes()),
                               stream->get()));
  }
  return block_x_.size_bytes() + block_y_.size_bytes();
}

void Bf16Gemm::RunInBlocks(const Tensor& x, const Tensor& w, const Tensor& y) {
  ReserveBlocks(w.dim(0), w.dim(1));
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
