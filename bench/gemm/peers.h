// cuBLASLt in FP8 and FP16: y[M, N] = x[M, K] . w[N, K]^T, the best of its own first eight choices.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "fireq/backends/sm90/runtime/device_buffer.h"

namespace fireq::bench {

class CublasLtGemm {
 public:
  // E4M3 in, BF16 out if `fp8`; else FP16 in and out. FP32 sums either way.
  CublasLtGemm(int64_t m, int64_t n, int64_t k, bool fp8);
  ~CublasLtGemm();
  CublasLtGemm(const CublasLtGemm&) = delete;
  CublasLtGemm& operator=(const CublasLtGemm&) = delete;

  int num_algorithms() const { return static_cast<int>(algorithms_.size()); }
  void Launch(int algorithm, const void* x, const void* w, void* y, cudaStream_t stream) const;

 private:
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t w_layout_ = nullptr, x_layout_ = nullptr, y_layout_ = nullptr;
  std::vector<cublasLtMatmulAlgo_t> algorithms_;
  sm90::DeviceBuffer<uint8_t> workspace_;
  sm90::DeviceBuffer<float> one_;
};

}  // namespace fireq::bench
