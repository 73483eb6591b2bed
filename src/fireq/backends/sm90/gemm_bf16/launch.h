// y[M, N] = x[M, K] . w[N, K]^T of BF16 operands with FP32 sums and outputs, and which of a row's
// outputs is the largest: lm_head.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/backends/sm90/peer_sum/params.h"
#include "fireq/formats/bf16.h"

namespace fireq::sm90 {

// Device memory, 16-byte aligned.
struct GemmBf16Args {
  const bf16_t* x = nullptr;   // [M, K]
  const bf16_t* w = nullptr;   // [N, K]
  float* y = nullptr;          // [M, N], or null where only the largest are wanted
  int32_t* largest = nullptr;  // [M]: the first of the largest of a row, -1 of NaN alone; or null
  void* workspace = nullptr;   // GemmBf16WorkspaceBytes(), for `largest`; anything
  // Of ranks that each have some of the outputs, this one's from number `first` on: `largest` is of
  // all of them.
  const PeerEnd* end = nullptr;
  int32_t first = 0;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;  // a multiple of 8
};

// A row's sums run along K in one order, whatever M is. The weights' first tiles are read before
// the kernel in front has ended (programmatic dependent launch), so it must not write them. May be
// captured. Errors: kInvalidArgument, kCuda.
void LaunchGemmBf16(const GemmBf16Args& args, cudaStream_t stream);
int64_t GemmBf16WorkspaceBytes();

}  // namespace fireq::sm90
