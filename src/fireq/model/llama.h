// The forward pass of Llama-like models over a backend: the same for float and quantised models,
// CPU and GPU, evaluation and serving.
#pragma once

#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/model/weights.h"
#include "fireq/ops/backend.h"
#include "fireq/ops/trace.h"

namespace fireq {

// Everything a forward needs to know besides weights and the batch.
struct ForwardContext {
  Backend* backend = nullptr;
  const ModelConfig* config = nullptr;
  Arithmetic arithmetic;
  bool qk_hadamard = false;
  Products products = Products::kServed;
  Tensor rope_cos, rope_sin;  // F32 [L, Dh/2] (MakeRopeTable), in the backend's memory
  Tracer* tracer = nullptr;   // may be null
};

// cos and sin of position * inv_freq for positions [0, length): F32 [length, Dh/2] on the host. The
// frequencies are FP32 as the reference implementations have them, llama3 scaling included.
struct RopeTable {
  Tensor cos, sin;
};
RopeTable MakeRopeTable(const RopeConfig& rope, int64_t head_dim, int64_t length);

// Scratch for up to `max_tokens` tokens a step, made once and reused.
class ForwardBuffers;

// x [T, D] (border dtype, updated in place) through block `layer`.
void ForwardBlock(const ForwardContext& context, ForwardBuffers& buffers, int64_t layer,
                  const BlockWeights& block, const BatchView& batch, const KvLayer& kv, Tensor& x);

}  // namespace fireq
