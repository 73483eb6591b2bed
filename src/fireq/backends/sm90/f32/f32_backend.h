// The ops of a float model on a Hopper GPU, in FP32 throughout, beside those of a quantised one:
// what calibration runs. Not made for serving.
#pragma once

#include <memory>

#include "fireq/ops/backend.h"

namespace fireq {

// MakeSm90Backend's, and where borders are F32: linears of float weights, norms, RoPE and causal
// attention over a float cache (KvGrid::kFloat, F32 queries). Anything else is kUnsupported by
// name. Errors: kCuda, kUnsupported.
std::unique_ptr<Backend> MakeSm90FloatBackend(int device = 0);

}  // namespace fireq
