// Cholesky factorisation in blocks of 128 columns and the systems it solves. FP32, on the device.
#pragma once

#include <string>

#include "fireq/backends/sm90/f32/f32_gemm.h"

namespace fireq::sm90 {

class Cholesky {
 public:
  // `h` [K, K] symmetric, its lower triangle becomes L with h = L L^T; what lies above is kept or
  // overwritten. Errors: kInvalidArgument naming `name` if h is not positive definite (this waits
  // for the device).
  Cholesky(std::shared_ptr<Stream> stream, F32Gemm& gemm, Tensor h, const std::string& name);

  const Tensor& factor() const { return h_; }
  // b [K, M] becomes h^-1 b.
  void Solve(const Tensor& b);

 private:
  struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
  };
  Range BlockAt(int64_t begin) const;
  const float* Inverse(int64_t begin) const;
  void Factor(int32_t* failed);
  void MultiplyBlock(const Range& block, Turn turn, const Tensor& b);

  std::shared_ptr<Stream> stream_;
  F32Gemm& gemm_;
  int64_t k_;
  Tensor h_;
  Tensor inverses_;  // [blocks, 128, 128] of the diagonal blocks of L
};

}  // namespace fireq::sm90
