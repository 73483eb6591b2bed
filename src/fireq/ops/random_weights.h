// Random weights on the host: what every backend's must equal.
#pragma once

#include "fireq/ops/args.h"

namespace fireq {

// Standard deviation of a BF16 weight of K columns: that of the INT4 ones, roughly.
float RandomWeightSpread(int64_t k);

LinearSpec MakeRandomLinear(const RandomLinearSpec& spec);
Tensor MakeRandomBf16(Shape shape, float spread, uint64_t seed);

}  // namespace fireq
