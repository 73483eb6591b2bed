// Runs the float model over calibration text, block by block, and keeps what recipes ask about.
//
// Between blocks only the residual stream of every window is kept, F32 [T, D] each (131,072 tokens
// of a 70B model: 4.3 GB), so memory is one block plus that.
#pragma once

#include <span>
#include <vector>

#include "fireq/base/thread_pool.h"
#include "fireq/checkpoint/model_config.h"
#include "fireq/model/kv_cache.h"
#include "fireq/model/llama.h"
#include "fireq/model/rope.h"
#include "fireq/ops/backend.h"
#include "fireq/quant/block.h"
#include "fireq/quant/fold_rope.h"
#include "fireq/quant/moments.h"

namespace fireq::quant {

// What one block's inputs looked like over all calibration tokens.
struct BlockStats {
  InputMoments attn_input;  // of q, k, v
  InputMoments attn_out;    // of o
  InputMoments mlp_input;   // of gate, up
  InputMoments mlp_hidden;  // of down
  KeyRanges keys;
};

class Calibration {
 public:
  // `ids` is cut into windows of `context`, the short last one dropped; at least one window.
  // Token i of the stream starts as row ids[i] of `embedding` [V, D] (rotated already if the model
  // is). Errors: kInvalidArgument for too few ids or an id outside the table.
  Calibration(Backend& backend, const ModelConfig& config, std::span<const int32_t> ids,
              int64_t context, const Matrix<float>& embedding, ThreadPool& pool);

  // The residual streams where the next block starts, F32 [context, D] on the host, and back: what
  // a later process needs to go on from here. Errors: kShapeMismatch.
  std::vector<Tensor> Streams() const;
  void SetStreams(const std::vector<Tensor>& streams);

  int64_t num_tokens() const { return static_cast<int64_t>(windows_.size()) * context_; }

  // Sends every window through `block` and returns what was seen. Errors: kCorrupt naming the
  // layer and the input if an activation is not finite.
  BlockStats RunBlock(Block<float>& block, int64_t layer, bool full_moments);

 private:
  Backend& backend_;
  const ModelConfig& config_;
  ThreadPool& pool_;
  int64_t context_;
  KvCache cache_;
  RopeTable rope_;  // on the host, for post-RoPE statistics
  ForwardContext forward_;
  std::unique_ptr<ForwardBuffers> buffers_;
  BatchView batch_;
  std::vector<Tensor> windows_;  // residual streams, F32 [context, D], in the backend's memory
};

}  // namespace fireq::quant
