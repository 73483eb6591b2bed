// Fits on a Hopper GPU: sums, factorisation and solver in FP32, as quant/host_fit.h has them.
#pragma once

#include <memory>

#include "fireq/ops/backend.h"
#include "fireq/ops/input_fit.h"

namespace fireq {

// For tokens in the memory of `backend`, which is MakeSm90Backend's or MakeSm90FloatBackend's and
// outlives it. Sums come in another order than the host's. Errors: kInvalidArgument for another
// backend, kCuda, kOutOfMemory.
std::unique_ptr<Fitter> MakeSm90Fitter(Backend& backend);

}  // namespace fireq
