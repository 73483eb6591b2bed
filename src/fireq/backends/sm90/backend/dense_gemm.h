// y[M, N] = x[M, K] . w[N, K]^T of BF16 or FP16 operands with FP32 sums, by cuBLASLt: lm_head.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "fireq/backends/sm90/backend/lt_gemm.h"
#include "fireq/tensor/tensor.h"

namespace fireq::sm90 {

// Keeps the chosen algorithm a shape, and one workspace: one stream at a time.
class DenseGemm {
 public:
  explicit DenseGemm(std::shared_ptr<Stream> stream);

  // x BF16 [M, K], y F32 [M, N]; or w FP16 [N, K], and y F32 or FP16; on the device. K is a
  // multiple of 8. Errors: kCuda.
  void Run(const Tensor& x, const Tensor& w, const Tensor& y);
  // The same in blocks of one number of rows, so that a row's sums do not depend on how many there
  // are.
  void RunInBlocks(const Tensor& x, const Tensor& w, const Tensor& y);
  // Takes what Run needs for up to `rows` rows of w [N, K] of that type, if it has not; returns its
  // bytes.
  int64_t Reserve(int64_t rows, int64_t k, DType w);
  // Beside that, what RunInBlocks needs.
  int64_t ReserveBlocks(int64_t n, int64_t k, DType y);
  static constexpr int64_t kBlockRows = 16;

 private:
  const LtProblem& ProblemFor(const Tensor& x, const Tensor& w, const Tensor& y);
  Tensor AsHalf(const Tensor& x);

  LtGemm gemm_;
  Tensor half_x_;  // FP16, as many values as the largest call so far
  Tensor block_x_, block_y_;
  using Problem = std::tuple<int64_t, int64_t, int64_t, DType, DType>;  // M, N, K, w, y
  std::map<Problem, std::shared_ptr<const LtProblem>> problems_;
};

}  // namespace fireq::sm90
