// Shared memory of the wide kernel: rings of tokens and weights, outputs, token scales, barriers.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"

namespace fireq::sm90 {

template <class Config>
struct WideShared {
  uint8_t* base;
  __device__ uint8_t* x(int stage) const { return base + stage * Config::kXBytes; }
  __device__ uint8_t* w(int stage) const {
    return base + Config::kWOffset + stage * Config::kWBytes;
  }
  __device__ uint8_t* out(int warpgroup) const {
    return base + Config::kOutOffset + warpgroup * Config::kOutBytes;
  }
  __device__ float* scales() const { return reinterpret_cast<float*>(base + Config::kScaleOffset); }
  __device__ Mbarrier* x_full(int stage) const {
    return reinterpret_cast<Mbarrier*>(base + Config::kBarrierOffset) + stage;
  }
  __device__ Mbarrier* x_empty(int stage) const { return x_full(stage) + Config::kStages; }
  __device__ Mbarrier* w_full(int stage) const { return x_full(stage) + 2 * Config::kStages; }
  // One place on: the weights of a step are released together with the tokens of the step before,
  // by arrivals at the same offset.
  __device__ Mbarrier* w_empty(int stage) const {
    return x_full(3 * Config::kStages) + (stage + Config::kStages - 1) % Config::kStages;
  }
  __device__ float4* given(int warpgroup) const {
    return reinterpret_cast<float4*>(base + Config::kGivenOffset + warpgroup * Config::kGivenBytes);
  }
  // The warpgroup's output buffer is free (and has the residual) / has half of the outputs. A
  // barrier a half: one thread looks at both, and might see neither of two phases that follow close
  // on one another.
  __device__ Mbarrier* out_ready(int warpgroup) const {
    return x_full(4 * Config::kStages) + warpgroup;
  }
  __device__ Mbarrier* out_full(int half, int warpgroup) const {
    return out_ready(Config::kWarpgroups) + half * Config::kWarpgroups + warpgroup;
  }
  __device__ Mbarrier* scales_full() const { return out_full(2, 0); }
  __device__ Mbarrier* scales_empty() const { return scales_full() + 1; }
  // One tile a CTA: all of its products are done, and outputs may take its tokens' place.
  __device__ Mbarrier* tokens_read() const { return scales_empty() + 1; }
};

}  // namespace fireq::sm90
