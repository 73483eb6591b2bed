// Names the intermediates of a forward pass as they are made: calibration and CPU/GPU comparison.
#pragma once

#include <string_view>

#include "fireq/ops/args.h"

namespace fireq {

class Tracer {
 public:
  virtual ~Tracer() = default;
  // `layer` is -1 outside the blocks. Names, in order of a block: "attn_input" (normed input of
  // q,k,v), "qkv" (before RoPE), "query" (as attention reads it; K and V are in the cache by then),
  // "attn_context" (what attention writes), "attn_out" (input of o), "attn_residual", "mlp_input"
  // (normed input of gate|up), "mlp_product" (silu*up), "mlp_hidden" (input of down), "block_out";
  // outside: "embed", "final_norm", "logits". Tensors live in the backend's memory and are valid
  // during the call only; what is written to them goes on through the pass.
  virtual void OnTensor(int64_t layer, std::string_view name, const ActTensor& tensor) = 0;
};

}  // namespace fireq
