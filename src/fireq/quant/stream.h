// The residual stream of all calibration windows on its way through a block, step by step, so that
// a linear can be quantised when what goes into it is known.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "fireq/model/kv_cache.h"
#include "fireq/model/llama.h"
#include "fireq/model/rope.h"
#include "fireq/tensor/matrix.h"

namespace fireq::quant {

// What goes into the linears of a block, in order.
enum class BlockInput : uint8_t {
  kAttention,     // of q, k, v
  kAttentionOut,  // of o
  kMlp,           // of gate, up
  kMlpHidden,     // of down
};

struct StreamSpec {
  Arithmetic arithmetic;
  bool qk_hadamard = false;
};

// Which of a block's inputs feed quantised linears, in the order of BlockInput.
using QuantisedInputs = std::array<bool, 4>;

class Stream {
 public:
  // Window w starts as the rows `ids[w context .. (w + 1) context)` of `embedding` [V, D].
  Stream(Backend& backend, const ModelConfig& config, const StreamSpec& spec,
         std::span<const int32_t> ids, int64_t context, const Matrix<float>& embedding);

  int64_t num_windows() const { return std::ssize(windows_); }
  int64_t context() const { return context_; }

  // Between blocks: the residual streams, on the host as they are, and back. Errors:
  // kShapeMismatch.
  std::vector<Tensor> Windows() const;
  void SetWindows(std::span<const Tensor> windows);

  // Linears may be missing until the step that needs them.
  void StartBlock(int64_t layer, BlockWeights weights, const QuantisedInputs& quantised = {});
  BlockWeights& weights() { return weights_; }
  Products& products() { return forward_.products; }

  // The steps of a block on one window, in this order. Needed are qkv; o; gate_up; down.
  void Attend(int64_t window, Tracer* tracer);
  void AddAttention(int64_t window);
  void Feed(int64_t window);
  void AddMlp(int64_t window);

  // What a linear reads [T, K]: between the steps where it exists, until the next one.
  ActTensor Input(BlockInput which, int64_t window);
  // The residual stream after the final norm of `weight` [T, D], until the next step.
  ActTensor Final(const Tensor& weight, int64_t window);
  // The residual stream itself, border [T, D].
  const Tensor& Residual(int64_t window) const { return windows_[static_cast<size_t>(window)]; }

 private:
  BlockForward Forward() { return {forward_, *buffers_, layer_, batch_}; }
  DType InputType(BlockInput which);
  ActTensor Normed(BlockInput which, int64_t window);
  ActTensor Keep(const ActTensor& tensor) const;

  Backend& backend_;
  int64_t context_;
  KvCache cache_;
  ForwardContext forward_;
  std::unique_ptr<ForwardBuffers> buffers_;
  BatchView batch_;
  int64_t layer_ = 0;
  BlockWeights weights_;
  QuantisedInputs quantised_ = {};
  std::vector<Tensor> windows_;  // border [context, D], in the backend's memory
  std::vector<ActTensor> kept_;  // a window's input of o, later of down
};

}  // namespace fireq::quant
