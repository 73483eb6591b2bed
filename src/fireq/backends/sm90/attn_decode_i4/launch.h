// Attention of one or a few query tokens a sequence over the paged INT4 cache.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/rope_kv_write/launch.h"

namespace fireq::sm90 {

// Where the plan finishes: of a step's lengths and page table, what each CTA does, for the
// attention of every layer. An ordinary launch, behind everything on the stream, whose result is
// there and visible before any kernel of a later ordinary launch begins. Attention reads it before
// it waits for the kernel in front, so there must be an ordinary launch between them, or attention
// must be one: a programmatic launch right behind this one could begin while the lists are being
// written. All launches from then on begin behind that one's beginning, so they read them safely,
// too. `lists` is of plan.lists_bytes; q, scale_q, pages, out and workspace are not looked at.
// Capturable as attention is.
void LaunchDecodeLists(const AttnDecodePlan& plan, const AttnDecodeParams& tensors, void* lists,
                       cudaStream_t stream);

struct AttnDecodeArgs {
  AttnDecodeParams tensors;   // what the plan says is filled in
  bool e4m3_probs = true;     // false: P' keeps 11 bits
  bool programmatic = false;  // may start before the kernel in front has ended
  // Where the plan finishes: what LaunchDecodeLists has written for these lengths and this table.
  void* lists = nullptr;
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
