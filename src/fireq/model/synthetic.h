// Models of random weights in the exact shapes of known ones: for speed where the weights are out
// of reach, and for comparing backends.
#pragma once

#include <string>

#include "fireq/model/model.h"

namespace fireq {

// "llama-3-8b", "llama-2-7b", "llama-2-13b", "llama-2-70b", or "tiny" (for tests). Throws kNotFound
// listing the names.
ModelConfig SyntheticConfig(const std::string& name);

// W4A8KV4 with an embedding in BF16; made by the backend, equal on every one. Or one rank's share
// of such a model, its linears random by themselves; `ranks` is still to be set.
Model MakeSyntheticModel(Backend& backend, const ModelConfig& config,
                         WeightForm lm_head = WeightForm::kBf16, uint64_t seed = 1,
                         Share share = {});

}  // namespace fireq
