// A float model of random weights in the exact shapes of a known one, as a source to quantise: its
// tensors are made when they are asked for, so that they need no room on disk.
#pragma once

#include <memory>
#include <string>

#include "fireq/checkpoint/model_source.h"

namespace fireq {

// `name` is one of SyntheticConfig's, `layers` of its layers (0: all). Tensors are BF16: linears of
// unit gain, norm weights around 1; the same for the same seed on every machine. Errors: kNotFound
// listing the names, kInvalidArgument for more layers than there are.
std::shared_ptr<const ModelSource> MakeSyntheticSource(const std::string& name, int64_t layers = 0,
                                                       uint64_t seed = 1);

}  // namespace fireq
