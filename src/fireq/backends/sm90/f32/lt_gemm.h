// Products of FP32 matrices by cuBLASLt, in its own words: these are column-major.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <memory>
#include <type_traits>

#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/tensor/tensor.h"

namespace fireq::sm90 {

// A matrix on the device as it is stored: columns begin `stride` elements apart, one batch
// `batch_stride` elements behind the other; its address is a multiple of `alignment` bytes.
struct LtMatrix {
  int64_t rows, columns;
  int64_t stride;
  int64_t batch_stride;
  uint32_t alignment;
};

// c = alpha op(a) op(b) + beta c, op the transpose where asked for.
struct LtShape {
  LtMatrix a, b, c;
  bool transpose_a = false, transpose_b = false;
  int64_t batches = 1;
};

// What cuBLASLt keeps of a shape, and the algorithm it chose.
class LtProblem {
 public:
  // Errors: kCuda, also where cuBLASLt has no kernel for the shape.
  LtProblem(cublasLtHandle_t handle, const LtShape& shape, int64_t workspace_bytes);
  LtProblem(const LtProblem&) = delete;
  LtProblem& operator=(const LtProblem&) = delete;

 private:
  friend class LtGemm;
  struct Destroy {
    void operator()(cublasLtMatmulDesc_t operation) const { cublasLtMatmulDescDestroy(operation); }
    void operator()(cublasLtMatrixLayout_t layout) const { cublasLtMatrixLayoutDestroy(layout); }
  };
  template <class Handle>
  using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;

  Owned<cublasLtMatmulDesc_t> operation_;
  Owned<cublasLtMatrixLayout_t> a_, b_, c_;
  cublasLtMatmulAlgo_t algorithm_{};
};

// A handle with one workspace: one stream at a time.
class LtGemm {
 public:
  explicit LtGemm(std::shared_ptr<Stream> stream);
  std::shared_ptr<const LtProblem> Prepare(const LtShape& shape) const;
  // Operands on the device, of the shape that `problem` was prepared for. Errors: kCuda.
  void Run(const LtProblem& problem, float alpha, const void* a, const void* b, float beta,
           void* c) const;
  const std::shared_ptr<Stream>& stream() const { return stream_; }

 private:
  struct DestroyHandle {
    void operator()(cublasLtHandle_t handle) const { cublasLtDestroy(handle); }
  };
  std::shared_ptr<Stream> stream_;
  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, DestroyHandle> handle_;
  Tensor workspace_;
};

}  // namespace fireq::sm90
