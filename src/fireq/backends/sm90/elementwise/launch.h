// The producers of a GEMM's tokens: rows of BF16 to E4M3 codes, a scale a row, a sum a group of
// 128.
//
// Token quantisation as formats/act_e4m3.h has it; sums are of the rounded codes. All pointers are
// device memory, rows are contiguous and 16-byte aligned. K is a multiple of 64, at most 32768; no
// rows do nothing. Asynchronous on `stream`, no workspace, may be captured; programmatic dependent
// launch. Errors: kUnsupported (K), kCuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/backends/sm90/runtime/rows_ready.h"

namespace fireq::sm90 {

struct QuantizedRows {
  uint8_t* codes = nullptr;  // E4M3 [rows, k]
  float* scales = nullptr;   // [rows]
  float* sums = nullptr;     // [rows, ceil(k/128)]
};

struct QuantizeRowsArgs {
  const uint16_t* x = nullptr;  // BF16 [rows, k]
  int64_t rows = 0;
  int64_t k = 0;
  QuantizedRows out;
  RowsReady ready;  // of x, if the kernel in front says so
};
void LaunchQuantizeRows(const QuantizeRowsArgs& args, cudaStream_t stream);

// codes = E4M3(r / sqrt(mean(r^2) + eps) * weight * 448 / a), r = x or, with a residual,
// r = bf16(x + residual), which is also written to `sum`. FP32 inside.
struct RmsNormQuantArgs {
  const uint16_t* x = nullptr;         // BF16 [rows, k]
  const uint16_t* residual = nullptr;  // BF16 [rows, k] or null
  uint16_t* sum = nullptr;  // BF16 [rows, k], needed with a residual; may be either input
  // [k]. May be read before the kernels ahead have ended, so none of them may be writing it.
  const float* weight = nullptr;
  float eps = 0.0f;
  int64_t rows = 0;
  int64_t k = 0;
  QuantizedRows out;
};
void LaunchRmsNormQuant(const RmsNormQuantArgs& args, cudaStream_t stream);

}  // namespace fireq::sm90
