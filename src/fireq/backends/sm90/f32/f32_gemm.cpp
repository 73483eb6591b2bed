#include "fireq/backends/sm90/f32/f32_gemm.h"

#include <algorithm>
#include <utility>

namespace fireq::sm90 {
namespace {

constexpr uint32_t kBestAlignment = 256;  // the largest that cuBLASLt asks for

uint32_t AlignmentOf(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & -address, kBestAlignment));
}

// Row-major [rows, columns], or [columns, rows] where it is stored turned, is column-major with
// rows and columns exchanged.
LtMatrix MatrixOf(int64_t rows, int64_t columns, const F32Operand& operand, uint32_t alignment) {
  if (operand.turn == Turn::kYes) std::swap(rows, columns);
  return {columns, rows, operand.stride, operand.batch, alignment};
}

}  // namespace

F32Gemm::F32Gemm(std::shared_ptr<Stream> stream) : gemm_(std::move(stream)) {}

// Column-major: C^T [n, m] = B^T A^T from the same bytes.
const LtProblem& F32Gemm::ProblemFor(const F32Product& p) {
  const uint32_t align_a = AlignmentOf(p.a.data), align_b = AlignmentOf(p.b.data),
                 align_c = AlignmentOf(p.c);
  const Key key = {p.m,
                   p.n,
                   p.k,
                   p.a.stride,
                   p.b.stride,
                   p.c_stride,
                   p.a.batch,
                   p.b.batch,
                   p.c_batch,
                   p.batches,
                   p.a.turn == Turn::kYes,
                   p.b.turn == Turn::kYes,
                   p.beta != 0.0f,
                   align_a,
                   align_b,
                   align_c};
  auto& slot = problems_[key];
  if (!slot) {
    slot = gemm_.Prepare({.a = MatrixOf(p.k, p.n, p.b, align_b),
                          .b = MatrixOf(p.m, p.k, p.a, align_a),
                          .c = {p.n, p.m, p.c_stride, p.c_batch, align_c},
                          .transpose_a = p.b.turn == Turn::kYes,
                          .transpose_b = p.a.turn == Turn::kYes,
                          .batches = p.batches});
  }
  return *slot;
}

void F32Gemm::Run(const F32Product& p) {
  if (p.m == 0 || p.n == 0 || p.k == 0 || p.batches == 0) return;
  gemm_.Run(ProblemFor(p), p.alpha, p.b.data, p.a.data, p.beta, p.c);
}

}  // namespace fireq::sm90
