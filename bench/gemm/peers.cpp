#include "bench/gemm/peers.h"

#include <array>

namespace fireq::bench {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;

void Check(cublasStatus_t status, const char* what) {
  FIREQ_CHECK(status == CUBLAS_STATUS_SUCCESS, kCuda, what, ": cuBLASLt status ",
              static_cast<int>(status));
}

template <class T>
void Set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  Check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)), "attribute");
}

}  // namespace

CublasLtGemm::CublasLtGemm(int64_t m, int64_t n, int64_t k, bool fp8)
    : workspace_(kWorkspaceBytes), one_(std::vector<float>{1.0f}) {
  const cudaDataType_t in = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16F;
  const cudaDataType_t out = fp8 ? CUDA_R_16BF : CUDA_R_16F;
  Check(cublasLtCreate(&handle_), "create");
  Check(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation");
  Set(operation_, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (fp8) {
    const float* one = one_.data();
    Set(operation_, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, one);
    Set(operation_, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, one);
  }
  const auto rows = static_cast<uint64_t>(n), tokens = static_cast<uint64_t>(m),
             columns = static_cast<uint64_t>(k);
  Check(cublasLtMatrixLayoutCreate(&w_layout_, in, columns, rows, k), "layout");
  Check(cublasLtMatrixLayoutCreate(&x_layout_, in, columns, tokens, k), "layout");
  Check(cublasLtMatrixLayoutCreate(&y_layout_, out, rows, tokens, n), "layout");
  cublasLtMatmulPreference_t preference = nullptr;
  Check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const size_t bytes = kWorkspaceBytes;
  Check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &bytes, sizeof(bytes)),
        "preference");
  std::array<cublasLtMatmulHeuristicResult_t, 8> found{};
  int count = 0;
  Check(cublasLtMatmulAlgoGetHeuristic(handle_, operation_, w_layout_, x_layout_, y_layout_,
                                       y_layout_, preference, static_cast<int>(found.size()),
                                       found.data(), &count),
        "heuristic");
  cublasLtMatmulPreferenceDestroy(preference);
  for (int i = 0; i < count; ++i)
    if (found[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
      algorithms_.push_back(found[static_cast<size_t>(i)].algo);
}

CublasLtGemm::~CublasLtGemm() {
  cublasLtMatrixLayoutDestroy(w_layout_);
  cublasLtMatrixLayoutDestroy(x_layout_);
  cublasLtMatrixLayoutDestroy(y_layout_);
  cublasLtMatmulDescDestroy(operation_);
  cublasLtDestroy(handle_);
}

void CublasLtGemm::Launch(int algorithm, const void* x, const void* w, void* y,
                          cudaStream_t stream) const {
  const float alpha = 1.0f, beta = 0.0f;
  Check(cublasLtMatmul(handle_, operation_, &alpha, w, w_layout_, x, x_layout_, &beta, y, y_layout_,
                       y, y_layout_, &algorithms_[static_cast<size_t>(algorithm)],
                       workspace_.data(), kWorkspaceBytes, stream),
        "matmul");
}

}  // namespace fireq::bench
