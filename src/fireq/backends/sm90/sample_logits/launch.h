// Tokens from logits, as ops/sampler.h defines them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/ops/args.h"

namespace fireq::sm90 {

// Device memory, 16-byte aligned; shapes as in SampleArgs (ops/args.h).
struct SampleLogitsParams {
  const void* logits = nullptr;  // FP32 or FP16 [R, V]
  bool half_logits = false;
  const SampleRowParams* rows = nullptr;  // [R]
  const int32_t* history = nullptr;       // may be null if no row has one
  int32_t* out = nullptr;                 // [R, kSampleHead + 2 max_logprobs]
  int32_t* ids = nullptr;                 // [R], or null
  int64_t num_rows = 0;
  int32_t vocab = 0;  // V, at most 2^20
  int32_t max_logprobs = 0;
};

// One CTA a row, a cluster of them for few rows. Bit-identical from run to run and in any batch:
// sums are of fixed-point numbers. Asynchronous on `stream`, no workspace, may be captured. Errors:
// kUnsupported (V), kCuda.
void LaunchSampleLogits(const SampleLogitsParams& params, cudaStream_t stream);

}  // namespace fireq::sm90
