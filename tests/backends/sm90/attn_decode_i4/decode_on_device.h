// Decode attention's arguments of an AttentionCase in device memory.
#pragma once

#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "tests/backends/sm90/attention_on_device.h"

namespace fireq::testing {

inline sm90::AttnDecodeArgs DecodeArgs(const AttentionCase& c, const AttentionOnDevice& d,
                                       const sm90::DeviceBuffer<float>& workspace) {
  sm90::AttnDecodeArgs args;
  args.tensors = {.q = d.q.data(),
                  .scale_q = d.q_scale.data(),
                  .pages = d.pages.data(),
                  .query_start = d.query_start.data(),
                  .context_len = d.context_len.data(),
                  .page_table = d.page_table.data(),
                  .out = d.out.data(),
                  .workspace = workspace.data(),
                  .num_sequences = c.num_sequences(),
                  .num_heads = c.num_heads,
                  .kv_heads = c.layout.kv_heads,
                  .max_pages = c.max_pages};
  return args;
}

}  // namespace fireq::testing
