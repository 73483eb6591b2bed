#include "fireq/backends/sm90/f32/f32_gemm.h"

#include <algorithm>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS recommends for Hopper
constexpr uint32_t kBestAlignment = 256;

void Check(cublasStatus_t status, const char* what) {
  FIREQ_CHECK(status == CUBLAS_STATUS_SUCCESS, kCuda, what, ": ", cublasLtGetStatusString(status));
}

uint32_t AlignmentOf(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & -address, kBestAlignment));
}

}  // namespace

// cuBLASLt is column-major: it computes C^T [n, m] = B^T A^T from the same bytes.
struct F32Gemm::Problem {
  explicit Problem(const F32Product& p) {
    Check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLt");
    const auto turn = [&](cublasLtMatmulDescAttributes_t which, Turn turned) {
      const cublasOperation_t op = turned == Turn::kYes ? CUBLAS_OP_T : CUBLAS_OP_N;
      Check(cublasLtMatmulDescSetAttribute(operation, which, &op, sizeof op), "cublasLt transpose");
    };
    turn(CUBLASLT_MATMUL_DESC_TRANSA, p.b.turn);
    turn(CUBLASLT_MATMUL_DESC_TRANSB, p.a.turn);
    // Row-major [rows, columns] is column-major [columns, rows].
    const auto layout = [&](cublasLtMatrixLayout_t* out, int64_t rows, int64_t columns,
                            int64_t stride, int64_t batch) {
      Check(cublasLtMatrixLayoutCreate(out, CUDA_R_32F, static_cast<uint64_t>(columns),
                                       static_cast<uint64_t>(rows), stride),
            "cublasLt layout");
      if (p.batches == 1) return;
      const int32_t count = static_cast<int32_t>(p.batches);
      Check(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                             sizeof count),
            "cublasLt batches");
      Check(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                             &batch, sizeof batch),
            "cublasLt batch stride");
    };
    const bool turn_a = p.a.turn == Turn::kYes, turn_b = p.b.turn == Turn::kYes;
    layout(&b, turn_b ? p.n : p.k, turn_b ? p.k : p.n, p.b.stride, p.b.batch);
    layout(&a, turn_a ? p.k : p.m, turn_a ? p.m : p.k, p.a.stride, p.a.batch);
    layout(&c, p.m, p.n, p.c_stride, p.c_batch);
  }
  ~Problem() {
    cublasLtMatrixLayoutDestroy(a);
    cublasLtMatrixLayoutDestroy(b);
    cublasLtMatrixLayoutDestroy(c);
    cublasLtMatmulDescDestroy(operation);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

F32Gemm::F32Gemm(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {
  cublasLtHandle_t handle = nullptr;
  Check(cublasLtCreate(&handle), "cublasLtCreate");
  handle_.reset(handle);
  workspace_ = AllocateDevice(stream_, DType::kU8, {kWorkspaceBytes});
}

const F32Gemm::Problem& F32Gemm::ProblemFor(const F32Product& p) {
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
  if (slot) return *slot;
  auto problem = std::make_shared<Problem>(p);
  cublasLtMatmulPreference_t preference = nullptr;
  Check(cublasLtMatmulPreferenceCreate(&preference), "cublasLt preference");
  const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                        decltype(&cublasLtMatmulPreferenceDestroy)>
      guard(preference, cublasLtMatmulPreferenceDestroy);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
    Check(cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof value),
          "cublasLt preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_b);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_a);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_c);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_c);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  Check(cublasLtMatmulAlgoGetHeuristic(handle_.get(), problem->operation, problem->b, problem->a,
                                       problem->c, problem->c, preference, 1, &result, &found),
        "cublasLt heuristic");
  FIREQ_CHECK(found == 1, kCuda, "cuBLASLt has no FP32 kernel for ", p.m, " x ", p.n, " x ", p.k);
  problem->algorithm = result.algo;
  slot = std::move(problem);
  return *slot;
}

void F32Gemm::Run(const F32Product& p) {
  if (p.m == 0 || p.n == 0 || p.k == 0 || p.batches == 0) return;
  const Problem& problem = ProblemFor(p);
  Check(cublasLtMatmul(handle_.get(), problem.operation, &p.alpha, p.b.data, problem.b, p.a.data,
                       problem.a, &p.beta, p.c, problem.c, p.c, problem.c, &problem.algorithm,
                       workspace_.data(), kWorkspaceBytes, stream_->get()),
        "cublasLtMatmul");
}

}  // namespace fireq::sm90
