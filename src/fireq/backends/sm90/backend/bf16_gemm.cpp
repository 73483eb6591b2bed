#include "fireq/backends/sm90/backend/bf16_gemm.h"

#include <algorithm>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS recommends for Hopper

void Check(cublasStatus_t status, const char* what) {
  FIREQ_CHECK(status == CUBLAS_STATUS_SUCCESS, kCuda, what, ": ", cublasLtGetStatusString(status));
}

}  // namespace

// cuBLASLt is column-major: it computes y^T [N, M] = w [N, K] . x^T, w stored as K x N transposed.
struct Bf16Gemm::Problem {
  Problem(int64_t m, int64_t n, int64_t k) {
    Check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLt");
    const cublasOperation_t transpose = CUBLAS_OP_T;
    Check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                         sizeof transpose),
          "cublasLt transpose");
    const auto layout = [](cublasLtMatrixLayout_t* out, cudaDataType_t type, int64_t rows,
                           int64_t columns) {
      Check(cublasLtMatrixLayoutCreate(out, type, static_cast<uint64_t>(rows),
                                       static_cast<uint64_t>(columns), rows),
            "cublasLt layout");
    };
    layout(&w, CUDA_R_16BF, k, n);
    layout(&x, CUDA_R_16BF, k, m);
    layout(&y, CUDA_R_32F, n, m);
  }
  ~Problem() {
    cublasLtMatrixLayoutDestroy(w);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(y);
    cublasLtMatmulDescDestroy(operation);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

Bf16Gemm::Bf16Gemm(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {
  cublasLtHandle_t handle = nullptr;
  Check(cublasLtCreate(&handle), "cublasLtCreate");
  handle_.reset(handle);
  workspace_ = AllocateDevice(stream_, DType::kU8, {kWorkspaceBytes});
}

const Bf16Gemm::Problem& Bf16Gemm::ProblemFor(int64_t m, int64_t n, int64_t k) {
  auto& slot = problems_[{m, n, k}];
  if (slot) return *slot;
  auto problem = std::make_shared<Problem>(m, n, k);
  cublasLtMatmulPreference_t preference = nullptr;
  Check(cublasLtMatmulPreferenceCreate(&preference), "cublasLt preference");
  const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                        decltype(&cublasLtMatmulPreferenceDestroy)>
      guard(preference, cublasLtMatmulPreferenceDestroy);
  const uint64_t bytes = kWorkspaceBytes;
  Check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &bytes, sizeof bytes),
        "cublasLt workspace");
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  Check(cublasLtMatmulAlgoGetHeuristic(handle_.get(), problem->operation, problem->w, problem->x,
                                       problem->y, problem->y, preference, 1, &result, &found),
        "cublasLt heuristic");
  FIREQ_CHECK(found == 1, kCuda, "cuBLASLt has no BF16 kernel for ", m, " x ", n, " x ", k);
  problem->algorithm = result.algo;
  slot = std::move(problem);
  return *slot;
}

void Bf16Gemm::Run(const Tensor& x, const Tensor& w, const Tensor& y) {
  if (x.dim(0) == 0) return;
  const Problem& problem = ProblemFor(x.dim(0), w.dim(0), w.dim(1));
  const float one = 1.0f;
  const float zero = 0.0f;
  Check(cublasLtMatmul(handle_.get(), problem.operation, &one, w.data(), problem.w, x.data(),
                       problem.x, &zero, y.data(), problem.y, y.data(), problem.y,
                       &problem.algorithm, workspace_.data(), kWorkspaceBytes, stream_->get()),
        "cublasLtMatmul");
}

void Bf16Gemm::RunInBlocks(const Tensor& x, const Tensor& w, const Tensor& y) {
  constexpr int64_t kRows = 16;
  const Shape x_shape = {kRows, w.dim(1)};
  const Shape y_shape = {kRows, w.dim(0)};
  if (!block_x_.defined() || block_x_.shape() != x_shape || block_y_.shape() != y_shape) {
    block_x_ = AllocateDevice(stream_, DType::kBF16, x_shape);
    block_y_ = AllocateDevice(stream_, DType::kF32, y_shape);
    // Rows that no block fills are multiplied, too, and their results dropped.
    FIREQ_CUDA(cudaMemsetAsync(block_x_.data(), 0, static_cast<size_t>(block_x_.size_bytes()),
                               stream_->get()));
  }
  const auto copy = [&](const Tensor& from, const Tensor& to) {
    FIREQ_CUDA(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(from.size_bytes()),
                               cudaMemcpyDeviceToDevice, stream_->get()));
  };
  for (int64_t begin = 0; begin < x.dim(0); begin += kRows) {
    const int64_t end = std::min(begin + kRows, x.dim(0));
    copy(x.Rows(begin, end), block_x_);
    Run(block_x_, w, block_y_);
    copy(block_y_.Rows(0, end - begin), y.Rows(begin, end));
  }
}

}  // namespace fireq::sm90
