// A random model in the served arithmetic (INT4 weights and KV, E4M3 activations), in memory.
#pragma once

#include <cstdint>

#include "fireq/model/model.h"

namespace fireq::test {

// 2 layers, D 32, F 48, 4 query and 2 KV heads of 8, vocabulary 61, context 512: a step of it takes
// microseconds.
ModelConfig TiniestConfig();

// The same seed gives the same model. Every matrix but embedding and lm_head (BF16) is INT4.
Model RandomQuantisedModel(Backend& backend, const ModelConfig& config, uint64_t seed);

}  // namespace fireq::test
