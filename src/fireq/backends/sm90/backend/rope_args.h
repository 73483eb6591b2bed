// The vectors that both of the GPU's RopeKvWrite kernels take, from an op's arguments.
#pragma once

#include "fireq/ops/args.h"

namespace fireq::sm90 {

// RopeKvWriteParams or RopeF32Params; absent ones become null.
template <class Params>
void SetRopeVectors(const RopeKvWriteArgs& args, Params& launch) {
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
}

}  // namespace fireq::sm90
