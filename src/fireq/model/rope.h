// Rotary position embedding tables.
#pragma once

#include "fireq/checkpoint/model_config.h"
#include "fireq/tensor/tensor.h"

namespace fireq {

struct RopeTable {
  Tensor cos;  // F32 [L, Dh/2], host
  Tensor sin;  // F32 [L, Dh/2], host
};

// cos and sin of position * inv_freq[i], i < Dh/2, for positions [0, length). Frequencies and
// angles are FP32, as the models were trained and as every reference implementation has them;
// Llama-3's frequency scaling included. One table serves every backend, so that they rotate by
// equal factors.
RopeTable MakeRopeTable(const RopeConfig& rope, int64_t head_dim, int64_t length);

}  // namespace fireq
