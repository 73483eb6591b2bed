// What both of the GPU's RopeKvWrite kernels take, from an op's arguments.
#pragma once

#include "fireq/ops/args.h"

namespace fireq::sm90 {

// RopeKvWriteParams or RopeF32Params; absent ones become null.
template <class Params>
void SetRopeArgs(const RopeKvWriteArgs& args, Params& launch) {
  const auto floats = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.as<float>() : nullptr;
  };
  launch.rope_cos = floats(args.rope_cos);
  launch.rope_sin = floats(args.rope_sin);
  launch.q_norm = floats(args.q_norm);
  launch.k_norm = floats(args.k_norm);
  launch.crs_q = floats(args.crs_q);
  launch.crs_k = floats(args.crs_k);
  launch.norm_eps = args.norm_eps;
  const BatchView& batch = *args.batch;
  launch.pages = args.kv.pages.as<uint8_t>();
  launch.query_start = batch.query_start.as<int32_t>();
  launch.context_len = batch.context_len.as<int32_t>();
  launch.page_table = batch.page_table.as<int32_t>();
  launch.max_pages = static_cast<int32_t>(batch.page_table.dim(1));
  launch.num_sequences = static_cast<int32_t>(batch.num_sequences);
  launch.num_heads = static_cast<int32_t>(args.num_heads);
}

}  // namespace fireq::sm90
