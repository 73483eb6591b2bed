// y[M, N] = x[M, K] . w[N, K]^T of BF16 operands with FP32 sums, by cuBLASLt: a rank's part of
// lm_head, for which our own kernel (gemm_bf16/) has not been compared with it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "fireq/backends/sm90/backend/lt_gemm.h"
#include "fireq/tensor/tensor.h"

namespace fireq::sm90 {

// Keeps the chosen algorithm a shape, and one workspace: one stream at a time.
class Bf16Gemm {
 public:
  explicit Bf16Gemm(std::shared_ptr<Stream> stream);

  // x BF16 [M, K], w BF16 [N, K], y F32 [M, N], on the device. Errors: kCuda.
  void Run(const Tensor& x, const Tensor& w, const Tensor& y);

 private:
  const LtProblem& ProblemFor(int64_t m, int64_t n, int64_t k);

  LtGemm gemm_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::shared_ptr<const LtProblem>> problems_;
};

}  // namespace fireq::sm90
