// What the kernel is told besides the caller's pointers and sizes: made by the launch.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/params.h"

namespace fireq::sm90 {

// The query heads of a KV head. Division of rows by it is exact where rows times it fit 32 bits.
struct PrefillGroup {
  int32_t size = 0;      // H / Hk
  uint32_t inverse = 0;  // 2^32 / size, rounded up; 0 for 1

#ifdef __CUDACC__
  __device__ __forceinline__ int32_t Query(int32_t row) const {
    return inverse == 0 ? row : static_cast<int32_t>(__umulhi(static_cast<uint32_t>(row), inverse));
  }
#endif
};

struct AttnPrefillKernelParams : AttnPrefillParams {
  PrefillGroup group;
  uint32_t halves = 0;        // of pages to unpack: of each tile four
  uint32_t undealt = 0;       // AttnPrefillPlan::undealt
  uint32_t lead = 0;          // AttnPrefillPlan::lead
  int32_t first_channel = 0;  // of V, where a launch does not multiply all
  // Where kPrefillRows are whole queries, the rows of a piece of work are one box of Q [T, H, Dh],
  // Dh x group heads x queries, in the swizzle that they have in shared memory.
  bool boxes = false;
  CUtensorMap queries{};
};

}  // namespace fireq::sm90
