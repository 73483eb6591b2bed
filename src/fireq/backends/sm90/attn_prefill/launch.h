// Causal attention of runs of query tokens over the paged INT4 cache, their own K and V included.
#pragma once

#include <cuda_runtime_api.h>

#include "fireq/backends/sm90/attn_prefill/params.h"
#include "fireq/backends/sm90/attn_prefill/plan.h"

namespace fireq::sm90 {

struct AttnPrefillArgs {
  AttnPrefillParams tensors;  // items, pieces, tiles: the plan's, copied to the device
  bool e4m3_probs = true;     // false: P' as the sum of two E4M3 numbers, in two launches
  // Whether the kernel, where the plan has tiles, may start before the one in front of it has
  // ended. It then waits for it by itself.
  bool programmatic = false;
};

// out[T,H,Dh] = bf16(softmax(q k^T / sqrt(Dh)) v): query i of n of a sequence sees its keys
// 0 .. context_len - n + i. A row without keys is zero. Bit-identical from run to run.
// Errors: kInvalidArgument (heads), kUnsupported (tokens x group^2 of 2^32 and more), kCuda.
// Source: served arithmetic, "Attention"; FireQ's three-stage pipeline; formats/kv_page.h.
void LaunchAttnPrefill(const AttnPrefillPlan& plan, const AttnPrefillArgs& args,
                       cudaStream_t stream);

}  // namespace fireq::sm90
