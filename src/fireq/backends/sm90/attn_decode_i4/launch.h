// Attention of one or a few query tokens a sequence over the paged INT4 cache.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/rope_kv_write/launch.h"

namespace fireq::sm90 {

struct AttnDecodeArgs {
  AttnDecodeParams tensors;   // what the plan says is filled in
  bool e4m3_probs = true;     // false: P' keeps 11 bits
  bool programmatic = false;  // may start before the kernel in front has ended
  // Where the plan writes tokens: what LaunchRopeKvWrite would be told, of the same step and cache.
  // Q is not written then, nor read.
  const RopeKvWriteParams* rope = nullptr;
};

// out[T,H,Dh] = bf16(softmax(q k^T / sqrt(Dh)) v), causal: query i of n sees the keys
// 0 .. context_len - n + i. `plan` is for the same S, H, Hk, Dh and for a max_query_len that no
// sequence exceeds. Bit-identical from run to run. Capturable: lengths and tables are read on the
// device. The workspace belongs to one launch at a time.
// With `rope` the bits are those of LaunchRopeKvWrite and then this, but that `q` stays as it was.
// Errors: kInvalidArgument (plan and args differ), kCuda.
// Source: served arithmetic, "Attention"; the pages are formats/kv_page.h's.
void LaunchAttnDecodeI4(const AttnDecodePlan& plan, const AttnDecodeArgs& args,
                        cudaStream_t stream);

}  // namespace fireq::sm90
