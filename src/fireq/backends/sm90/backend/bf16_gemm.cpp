#include "fireq/backends/sm90/backend/bf16_gemm.h"

#include <utility>

namespace fireq::sm90 {
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

}  // namespace fireq::sm90
