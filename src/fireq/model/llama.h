// The forward pass of Llama-like models over a backend: the same for float and quantised models,
// CPU and GPU, evaluation and serving.
#pragma once

#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/model/weights.h"
#include "fireq/ops/backend.h"
#include "fireq/ops/ranks.h"
#include "fireq/ops/trace.h"

namespace fireq {

// Everything a forward needs to know besides weights and the batch.
struct ForwardContext {
  Backend* backend = nullptr;
  const ModelConfig* config = nullptr;
  Arithmetic arithmetic;
  bool qk_hadamard = false;
  Products products = Products::kServed;
  Reduction reduction = Reduction::kFastest;
  Tensor rope_cos, rope_sin;  // F32 [L, Dh/2] (model/rope.h), in the backend's memory
  Tracer* tracer = nullptr;   // may be null
  Ranks* ranks = nullptr;     // null: this backend has the whole model

  // What crosses a kernel's border.
  DType border() const { return arithmetic.bf16_borders ? DType::kBF16 : DType::kF32; }
};

// The rows of a batch whose hidden states are wanted. Attention's sums and the linears behind them
// are made for no other row of the last block: most rows of a prompt are there for their K and V.
struct WantedRows {
  Tensor rows;    // I32 [R], in the backend's memory; undefined: none, K and V alone are written
  Tensor hidden;  // border [R, D]: theirs, in this order
};

// Scratch for up to `max_tokens` tokens a step, made once and reused by every block.
class ForwardBuffers {
 public:
  ForwardBuffers(const ForwardContext& context, int64_t max_tokens);
  int64_t max_tokens() const { return max_tokens_; }
  int64_t size_bytes() const;

 private:
  friend class BlockForward;
  friend Tensor ForwardHidden(const ForwardContext&, ForwardBuffers&, const ModelWeights&,
                              const BatchView&, const std::vector<KvLayer>&, const WantedRows*);

  // An activation on both sides of its token quantisation; codes only where the model has them.
  struct Activation {
    Tensor border;
    ActTensor codes;
  };
  Activation MakeActivation(const ForwardContext& context, int64_t width) const;

  int64_t max_tokens_;
  Tensor residual_;     // border [T, D]
  Tensor qkv_;          // border [T, (H + 2 Hk) Dh]
  ActTensor query_;     // F32 or E4M3 [T, H Dh]
  Activation normed_;   // [T, D]
  Activation context_;  // [T, H Dh]: attention's output
  Activation hidden_;   // [T, F]: silu(gate) * up
};

// The steps of ForwardBlock one by one, for who wants to look or to quantise in between. Results
// live in `buffers` until the next step that makes the same.
class BlockForward {
 public:
  // References are kept.
  BlockForward(const ForwardContext& context, ForwardBuffers& buffers, int64_t layer,
               const BatchView& batch)
      : context_(context),
        backend_(*context.backend),
        buffers_(buffers),
        layer_(layer),
        batch_(batch),
        num_rows_(batch.num_tokens) {}

  // Inputs of linears are codes where the model has them: E4M3 if the consumer is quantised.
  DType InputType(bool consumer_quantised) const {
    const Activations activations = context_.arithmetic.activations;
    if (activations == Activations::kInt8) return DType::kI8;
    return activations == Activations::kE4M3 && consumer_quantised ? DType::kE4M3
                                                                   : context_.border();
  }

  // Norm of the residual stream x: the input of q, k, v, or of gate, up.
  ActTensor AttentionInput(const Tensor& x, const Tensor& norm, DType type);
  ActTensor MlpInput(const Tensor& x, const Tensor& norm, DType type);
  // From there to the input of o, or of down. K and V are written to `kv`. With `wanted`, which has
  // rows, of x as of attention's output only these go on: from here on wanted->hidden is x.
  ActTensor AttentionOut(const ActTensor& input, const BlockWeights& block, const KvLayer& kv,
                         DType type, const WantedRows* wanted = nullptr,
                         const Tensor& x = Tensor());
  // K and V alone.
  void WriteCache(const ActTensor& input, const BlockWeights& block, const KvLayer& kv);
  ActTensor MlpHidden(const ActTensor& input, const BlockWeights& block, DType type);
  // o and down, added to x.
  void AddAttention(const ActTensor& out, const BlockWeights& block, const Tensor& x);
  void AddMlp(const ActTensor& hidden, const BlockWeights& block, const Tensor& x);

 private:
  ActTensor Normed(const Tensor& x, const Tensor& norm, DType type);
  ActTensor QueryAndCache(const ActTensor& input, const BlockWeights& block, const KvLayer& kv);
  Tensor Keep(const WantedRows& wanted, const Tensor& x, const Tensor& context);
  ActTensor Quantized(const Tensor& border, const ActTensor& codes, DType type);
  LinearArgs MakeLinear(const ActTensor& x, const PreparedLinear& w, Epilogue epilogue,
                        const Tensor& residual, const Tensor& y) const;
  void AddLinear(const ActTensor& input, const PreparedLinear& w, const Tensor& x);
  void Trace(std::string_view name, const ActTensor& tensor) const;

  const ForwardContext& context_;
  Backend& backend_;
  ForwardBuffers& buffers_;
  int64_t layer_;
  const BatchView& batch_;
  int64_t num_rows_;  // of x
};

// x [T, D] (border, updated in place) through block `layer`; its K and V are written to `kv`.
// Returns x or, if they alone are wanted, wanted->hidden.
Tensor ForwardBlock(const ForwardContext& context, ForwardBuffers& buffers, int64_t layer,
                    const BlockWeights& block, const BatchView& batch, const KvLayer& kv,
                    const Tensor& x, const WantedRows* wanted = nullptr);

// Embeds batch.ids and runs all blocks: the residual stream [T, D] (border) before the final norm.
// It lives in `buffers` until their next use. `kv` has one entry a layer. With `wanted`, the hidden
// states of these rows alone, in wanted->hidden.
Tensor ForwardHidden(const ForwardContext& context, ForwardBuffers& buffers,
                     const ModelWeights& weights, const BatchView& batch,
                     const std::vector<KvLayer>& kv, const WantedRows* wanted = nullptr);

// What the end of a forward writes, for up to `max_rows` rows.
struct LogitBuffers {
  LogitBuffers(const ForwardContext& context, const ModelWeights& weights, int64_t max_rows,
               DType type = DType::kF32);
  int64_t size_bytes() const;
  ActTensor normed;  // border or, for an INT4 lm_head, E4M3 [R, D]
  Tensor logits;     // `type` [R, V]
};

// Final norm and lm_head of `hidden` [R, D]: logits [R, V] in `buffers`.
Tensor ForwardLogits(const ForwardContext& context, const LogitBuffers& buffers,
                     const ModelWeights& weights, const Tensor& hidden);
// The same, but of each row's logits only which is the largest (LinearArgs::largest): I32 [R].
void ForwardLargest(const ForwardContext& context, const LogitBuffers& buffers,
                    const ModelWeights& weights, const Tensor& hidden, const Tensor& largest);
// Logits in memory of their own, F32.
Tensor ForwardLogits(const ForwardContext& context, const ModelWeights& weights,
                     const Tensor& hidden);

}  // namespace fireq
