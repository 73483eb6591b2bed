// What the kernel is told besides the caller's pointers and sizes: made by the launch.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/params.h"
#include "fireq/base/divisor.h"

namespace fireq::sm90 {

struct AttnPrefillKernelParams : AttnPrefillParams {
  Divisor group;              // query heads of a KV head: H / Hk
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
