// A model's weights, prepared for one backend, block by block.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/ops/backend.h"

namespace fireq {

// One transformer block.
struct BlockWeights {
  Tensor attn_norm;                               // F32 [D]
  std::shared_ptr<const PreparedLinear> qkv;      // [(H + 2 Hk) Dh, D]
  Tensor q_norm, k_norm;                          // F32 [Dh] or undefined
  Tensor crs_q, crs_k;                            // F32 [Hk, Dh] or undefined
  Tensor key_shift;                               // F32 [Hk, Dh] or undefined
  std::shared_ptr<const PreparedLinear> o;        // [D, H Dh]
  Tensor mlp_norm;                                // F32 [D]
  std::shared_ptr<const PreparedLinear> gate_up;  // [2 F, D]
  std::shared_ptr<const PreparedLinear> down;     // [D, F]
};

struct ModelWeights {
  Tensor embedding;  // F32, F16 or BF16 [V, D]
  std::vector<BlockWeights> blocks;
  // Instead of `blocks`: reads one when a forward comes to it, so that memory holds one at a time.
  std::function<BlockWeights(int64_t layer)> read_block;
  Tensor final_norm;                              // F32 [D]
  std::shared_ptr<const PreparedLinear> lm_head;  // [V, D]
};

}  // namespace fireq
