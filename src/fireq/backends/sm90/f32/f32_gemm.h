// C = alpha A B + beta C of FP32 matrices with FP32 products and sums, by cuBLASLt. Row-major.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "fireq/backends/sm90/f32/lt_gemm.h"

namespace fireq::sm90 {

enum class Turn : uint8_t { kNo, kYes };

// An operand on the device; rows begin `stride` floats apart, one batch `batch` behind the other.
struct F32Operand {
  const float* data;
  int64_t stride;
  Turn turn = Turn::kNo;
  int64_t batch = 0;
};

struct F32Product {
  int64_t m, n, k;
  F32Operand a;  // [m, k]; turned: [k, m]
  F32Operand b;  // [k, n]; turned: [n, k]
  float* c;      // [m, n]
  int64_t c_stride;
  float alpha = 1.0f, beta = 0.0f;
  int64_t batches = 1;
  int64_t c_batch = 0;
};

// Keeps the chosen algorithm a shape, and one workspace: one stream at a time.
class F32Gemm {
 public:
  explicit F32Gemm(std::shared_ptr<Stream> stream);
  // Nothing if m, n or k is 0. Errors: kCuda.
  void Run(const F32Product& product);

 private:
  using Key = std::array<int64_t, 16>;
  const LtProblem& ProblemFor(const F32Product& product);

  LtGemm gemm_;
  std::map<Key, std::shared_ptr<const LtProblem>> problems_;
};

}  // namespace fireq::sm90
