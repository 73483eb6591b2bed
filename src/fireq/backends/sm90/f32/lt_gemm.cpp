#include "fireq/backends/sm90/f32/lt_gemm.h"

#include <utility>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS recommends for Hopper

void Check(cublasStatus_t status, const char* what) {
  FIREQ_CHECK(status == CUBLAS_STATUS_SUCCESS, kCuda, what, ": ", cublasLtGetStatusString(status));
}

cublasLtMatrixLayout_t MakeLayout(const LtMatrix& matrix) {
  cublasLtMatrixLayout_t layout = nullptr;
  Check(cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, static_cast<uint64_t>(matrix.rows),
                                   static_cast<uint64_t>(matrix.columns), matrix.stride),
        "cublasLt layout");
  return layout;
}

void SetBatches(cublasLtMatrixLayout_t layout, const LtMatrix& matrix, int64_t batches) {
  if (batches == 1) return;
  const auto count = static_cast<int32_t>(batches);
  Check(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                         sizeof count),
        "cublasLt batches");
  Check(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &matrix.batch_stride, sizeof matrix.batch_stride),
        "cublasLt batch stride");
}

cublasLtMatmulDesc_t MakeOperation() {
  cublasLtMatmulDesc_t operation = nullptr;
  Check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLt");
  return operation;
}

}  // namespace

LtProblem::LtProblem(cublasLtHandle_t handle, const LtShape& shape, int64_t workspace_bytes)
    : operation_(MakeOperation()),
      a_(MakeLayout(shape.a)),
      b_(MakeLayout(shape.b)),
      c_(MakeLayout(shape.c)) {
  const auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool wanted) {
    const cublasOperation_t op = wanted ? CUBLAS_OP_T : CUBLAS_OP_N;
    Check(cublasLtMatmulDescSetAttribute(operation_.get(), which, &op, sizeof op),
          "cublasLt transpose");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, shape.transpose_a);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, shape.transpose_b);
  SetBatches(a_.get(), shape.a, shape.batches);
  SetBatches(b_.get(), shape.b, shape.batches);
  SetBatches(c_.get(), shape.c, shape.batches);
  cublasLtMatmulPreference_t preference = nullptr;
  Check(cublasLtMatmulPreferenceCreate(&preference), "cublasLt preference");
  const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                        decltype(&cublasLtMatmulPreferenceDestroy)>
      guard(preference, cublasLtMatmulPreferenceDestroy);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
    Check(cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof value),
          "cublasLt preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.a.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.b.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.c.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.c.alignment);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  Check(cublasLtMatmulAlgoGetHeuristic(handle, operation_.get(), a_.get(), b_.get(), c_.get(),
                                       c_.get(), preference, 1, &result, &found),
        "cublasLt heuristic");
  FIREQ_CHECK(found == 1, kCuda, "cuBLASLt has no kernel for C [", shape.c.rows, ", ",
              shape.c.columns, "] of A [", shape.a.rows, ", ", shape.a.columns, "], column-major");
  algorithm_ = result.algo;
}

LtGemm::LtGemm(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {
  cublasLtHandle_t handle = nullptr;
  Check(cublasLtCreate(&handle), "cublasLtCreate");
  handle_.reset(handle);
  workspace_ = AllocateDevice(stream_, DType::kU8, {kWorkspaceBytes});
}

std::shared_ptr<const LtProblem> LtGemm::Prepare(const LtShape& shape) const {
  return std::make_shared<const LtProblem>(handle_.get(), shape, kWorkspaceBytes);
}

void LtGemm::Run(const LtProblem& problem, float alpha, const void* a, const void* b, float beta,
                 void* c) const {
  Check(cublasLtMatmul(handle_.get(), problem.operation_.get(), &alpha, a, problem.a_.get(), b,
                       problem.b_.get(), &beta, c, problem.c_.get(), c, problem.c_.get(),
                       &problem.algorithm_, workspace_.data(), kWorkspaceBytes, stream_->get()),
        "cublasLtMatmul");
}

}  // namespace fireq::sm90
