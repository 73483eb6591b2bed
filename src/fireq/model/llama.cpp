#include "fireq/model/llama.h"

namespace fireq {

Tensor ForwardHidden(const ForwardContext& context, ForwardBuffers& buffers,
                     const ModelWeights& weights, const BatchView& batch,
                     const std::vector<KvLayer>& kv, const WantedRows* wanted) {
  FIREQ_CHECK(batch.num_tokens <= buffers.max_tokens(), kInvalidArgument, "a step of ",
              batch.num_tokens, " tokens in buffers for ", buffers.max_tokens());
  const size_t layers = static_cast<size_t>(context.config->num_layers);
  FIREQ_CHECK(kv.size() == layers, kInvalidArgument, kv.size(), " cache layers for a model of ",
              layers);
  Tensor x = buffers.residual_.Rows(0, batch.num_tokens);
  context.backend->Embed(
      {.ids = batch.ids, .table = weights.embedding, .chosen = batch.chosen, .out = x});
  if (context.tracer != nullptr) context.tracer->OnTensor(-1, "embed", {x, {}, {}});
  BlockWeights read;
  for (size_t layer = 0; layer < layers; ++layer) {
    const int64_t number = static_cast<int64_t>(layer);
    if (weights.read_block) read = weights.read_block(number);
    x = ForwardBlock(context, buffers, number, weights.read_block ? read : weights.blocks[layer],
                     batch, kv[layer], x, layer + 1 == layers ? wanted : nullptr);
  }
  return x;
}

Tensor ForwardBlock(const ForwardContext& context, ForwardBuffers& buffers, int64_t layer,
                    const BlockWeights& block, const BatchView& batch, const KvLayer& kv,
                    const Tensor& x, const WantedRows* wanted) {
  BlockForward forward(context, buffers, layer, batch);
  const auto type = [&](const PreparedLinear& w) { return forward.InputType(w.quantized()); };
  const ActTensor input = forward.AttentionInput(x, block.attn_norm, type(*block.qkv));
  if (wanted != nullptr && !wanted->rows.defined()) {
    forward.WriteCache(input, block, kv);
    return {};
  }
  const ActTensor out = forward.AttentionOut(input, block, kv, type(*block.o), wanted, x);
  Tensor hidden = wanted != nullptr ? wanted->hidden : x;
  forward.AddAttention(out, block, hidden);
  const ActTensor mlp_input = forward.MlpInput(hidden, block.mlp_norm, type(*block.gate_up));
  forward.AddMlp(forward.MlpHidden(mlp_input, block, type(*block.down)), block, hidden);
  return hidden;
}

ForwardBuffers::ForwardBuffers(const ForwardContext& context, int64_t max_tokens)
    : max_tokens_(max_tokens) {
  const ModelConfig& config = *context.config;
  Backend& backend = *context.backend;
  residual_ = backend.Allocate(context.border(), {max_tokens, config.hidden});
  qkv_ = backend.Allocate(context.border(), {max_tokens, config.qkv_rows()});
  const bool e4m3_query = context.arithmetic.e4m3_query;
  query_.values =
      backend.Allocate(e4m3_query ? DType::kE4M3 : DType::kF32, {max_tokens, config.q_rows()});
  if (e4m3_query) query_.scale = backend.Allocate(DType::kF32, {max_tokens, config.num_heads});
  normed_ = MakeActivation(context, config.hidden);
  context_ = MakeActivation(context, config.q_rows());
  hidden_ = MakeActivation(context, config.ffn);
}

ForwardBuffers::Activation ForwardBuffers::MakeActivation(const ForwardContext& context,
                                                          int64_t width) const {
  Backend& backend = *context.backend;
  Activation out;
  out.border = backend.Allocate(context.border(), {max_tokens_, width});
  const Activations activations = context.arithmetic.activations;
  if (activations == Activations::kFloat) return out;
  const bool e4m3 = activations == Activations::kE4M3;
  out.codes.values = backend.Allocate(e4m3 ? DType::kE4M3 : DType::kI8, {max_tokens_, width});
  out.codes.scale = backend.Allocate(DType::kF32, {max_tokens_});
  if (e4m3)
    out.codes.sums = backend.Allocate(DType::kF32, {max_tokens_, CeilDiv<int64_t>(width, kGroup)});
  return out;
}

int64_t ForwardBuffers::size_bytes() const {
  int64_t total = residual_.size_bytes() + qkv_.size_bytes();
  const auto add = [&](const ActTensor& tensor) {
    total += tensor.values.size_bytes() + tensor.scale.size_bytes() + tensor.sums.size_bytes();
  };
  add(query_);
  for (const Activation* activation : {&normed_, &context_, &hidden_}) {
    total += activation->border.size_bytes();
    add(activation->codes);
  }
  return total;
}

namespace {

ActTensor FirstRows(const ActTensor& tensor, int64_t count) {
  ActTensor out;
  out.values = tensor.values.Rows(0, count);
  if (tensor.scale.defined()) out.scale = tensor.scale.Rows(0, count);
  if (tensor.sums.defined()) out.sums = tensor.sums.Rows(0, count);
  return out;
}

}  // namespace

ActTensor BlockForward::AttentionInput(const Tensor& x, const Tensor& norm, DType type) {
  ActTensor input = Normed(x, norm, type);
  Trace("attn_input", input);
  return input;
}

ActTensor BlockForward::QueryAndCache(const ActTensor& input, const BlockWeights& block,
                                      const KvLayer& kv) {
  const Tensor qkv = buffers_.qkv_.Rows(0, batch_.num_tokens);
  backend_.Linear(MakeLinear(input, *block.qkv, Epilogue::kNone, {}, qkv));
  Trace("qkv", {qkv, {}, {}});

  const ActTensor query = FirstRows(buffers_.query_, batch_.num_tokens);
  RopeKvWriteArgs rope{.qkv = qkv, .batch = &batch_};
  rope.rope_cos = context_.rope_cos;
  rope.rope_sin = context_.rope_sin;
  rope.q_norm = block.q_norm;
  rope.k_norm = block.k_norm;
  rope.norm_eps = context_.config->rms_eps;
  rope.crs_q = block.crs_q;
  rope.crs_k = block.crs_k;
  rope.key_shift = block.key_shift;
  rope.qk_hadamard = context_.qk_hadamard;
  rope.num_heads = context_.config->num_heads;
  rope.q = query;
  rope.kv = kv;
  backend_.RopeKvWrite(rope);
  Trace("query", query);
  return query;
}

void BlockForward::WriteCache(const ActTensor& input, const BlockWeights& block,
                              const KvLayer& kv) {
  QueryAndCache(input, block, kv);
}

ActTensor BlockForward::AttentionOut(const ActTensor& input, const BlockWeights& block,
                                     const KvLayer& kv, DType type, const WantedRows* wanted,
                                     const Tensor& x) {
  const ActTensor query = QueryAndCache(input, block, kv);
  Tensor context = buffers_.context_.border.Rows(0, batch_.num_tokens);
  backend_.Attention({.q = query,
                      .kv = kv,
                      .batch = &batch_,
                      .num_heads = context_.config->num_heads,
                      .e4m3_probs = context_.arithmetic.e4m3_probs,
                      .reduction = context_.reduction,
                      .out = context});
  Trace("attn_context", {context, {}, {}});
  if (wanted != nullptr) context = Keep(*wanted, x, context);
  ActTensor out = Quantized(context, buffers_.context_.codes, type);
  Trace("attn_out", out);
  return out;
}

// Of x and of attention's output the wanted rows; returns the latter.
Tensor BlockForward::Keep(const WantedRows& wanted, const Tensor& x, const Tensor& context) {
  num_rows_ = wanted.rows.dim(0);
  if (context_.ranks != nullptr) context_.ranks->Complete(x);
  backend_.GatherRows(x, wanted.rows, wanted.hidden);
  // Where q, k and v were: attention has read them.
  const Shape shape = {num_rows_, context.dim(1)};
  Tensor kept = buffers_.qkv_.Reshape({buffers_.qkv_.num_elements()})
                    .Rows(0, NumElements(shape))
                    .Reshape(shape);
  backend_.GatherRows(context, wanted.rows, kept);
  return kept;
}

void BlockForward::AddAttention(const ActTensor& out, const BlockWeights& block, const Tensor& x) {
  AddLinear(out, *block.o, x);
  Trace("attn_residual", {x, {}, {}});
}

ActTensor BlockForward::MlpInput(const Tensor& x, const Tensor& norm, DType type) {
  ActTensor input = Normed(x, norm, type);
  Trace("mlp_input", input);
  return input;
}

ActTensor BlockForward::MlpHidden(const ActTensor& input, const BlockWeights& block, DType type) {
  const Tensor product = buffers_.hidden_.border.Rows(0, num_rows_);
  backend_.Linear(MakeLinear(input, *block.gate_up, Epilogue::kSiluMul, {}, product));
  Trace("mlp_product", {product, {}, {}});
  ActTensor hidden = Quantized(product, buffers_.hidden_.codes, type);
  Trace("mlp_hidden", hidden);
  return hidden;
}

void BlockForward::AddMlp(const ActTensor& hidden, const BlockWeights& block, const Tensor& x) {
  AddLinear(hidden, *block.down, x);
  Trace("block_out", {x, {}, {}});
}

ActTensor BlockForward::Normed(const Tensor& x, const Tensor& norm, DType type) {
  const ForwardBuffers::Activation& to = buffers_.normed_;
  ActTensor out = IsCodes(type) ? FirstRows(to.codes, num_rows_)
                                : ActTensor{to.border.Rows(0, num_rows_), {}, {}};
  backend_.RmsNorm({.x = x,
                    .weight = norm,
                    .eps = context_.config->rms_eps,
                    .reduction = context_.reduction,
                    .out = out});
  return out;
}

ActTensor BlockForward::Quantized(const Tensor& border, const ActTensor& codes, DType type) {
  if (!IsCodes(type)) return {border, {}, {}};
  ActTensor out = FirstRows(codes, border.dim(0));
  backend_.Quantize({.x = border, .out = out});
  return out;
}

LinearArgs BlockForward::MakeLinear(const ActTensor& x, const PreparedLinear& w, Epilogue epilogue,
                                    const Tensor& residual, const Tensor& y) const {
  return {.x = x,
          .w = &w,
          .epilogue = epilogue,
          .products = context_.products,
          .reduction = context_.reduction,
          .residual = residual,
          .y = y};
}

// x += w . input. Of several ranks each has a part of the product.
void BlockForward::AddLinear(const ActTensor& input, const PreparedLinear& w, const Tensor& x) {
  const LinearArgs linear = MakeLinear(input, w, Epilogue::kResidual, x, x);
  if (context_.ranks == nullptr) return backend_.Linear(linear);
  context_.ranks->AddLinear(backend_, linear);
}

void BlockForward::Trace(std::string_view name, const ActTensor& tensor) const {
  if (context_.tracer != nullptr) context_.tracer->OnTensor(layer_, name, tensor);
}

LogitBuffers::LogitBuffers(const ForwardContext& context, const ModelWeights& weights,
                           int64_t max_rows, DType type)
    : logits(context.backend->Allocate(type, {max_rows, context.config->vocab_size})) {
  Backend& backend = *context.backend;
  const int64_t hidden = context.config->hidden;
  if (weights.lm_head->quantized() && context.arithmetic.activations == Activations::kE4M3) {
    normed = {backend.Allocate(DType::kE4M3, {max_rows, hidden}),
              backend.Allocate(DType::kF32, {max_rows}),
              backend.Allocate(DType::kF32, {max_rows, CeilDiv<int64_t>(hidden, kGroup)})};
  } else {
    normed.values = backend.Allocate(context.border(), {max_rows, hidden});
  }
}

int64_t LogitBuffers::size_bytes() const {
  return normed.values.size_bytes() + normed.scale.size_bytes() + normed.sums.size_bytes() +
         logits.size_bytes();
}

static ActTensor FinalNorm(const ForwardContext& context, const LogitBuffers& buffers,
                           const ModelWeights& weights, const Tensor& hidden) {
  ActTensor normed = FirstRows(buffers.normed, hidden.dim(0));
  context.backend->RmsNorm({.x = hidden,
                            .weight = weights.final_norm,
                            .eps = context.config->rms_eps,
                            .reduction = context.reduction,
                            .out = normed});
  if (context.tracer != nullptr) context.tracer->OnTensor(-1, "final_norm", normed);
  return normed;
}

// Ranks share it.
static void LmHead(const ForwardContext& context, const LinearArgs& lm_head) {
  if (context.ranks == nullptr) return context.backend->Linear(lm_head);
  context.ranks->Linear(*context.backend, lm_head);
}

Tensor ForwardLogits(const ForwardContext& context, const LogitBuffers& buffers,
                     const ModelWeights& weights, const Tensor& hidden) {
  Tensor logits = buffers.logits.Rows(0, hidden.dim(0));
  LmHead(context, {.x = FinalNorm(context, buffers, weights, hidden),
                   .w = weights.lm_head.get(),
                   .products = context.products,
                   .reduction = context.reduction,
                   .y = logits});
  if (context.tracer != nullptr) context.tracer->OnTensor(-1, "logits", {logits, {}, {}});
  return logits;
}

void ForwardLargest(const ForwardContext& context, const LogitBuffers& buffers,
                    const ModelWeights& weights, const Tensor& hidden, const Tensor& largest) {
  LmHead(context, {.x = FinalNorm(context, buffers, weights, hidden),
                   .w = weights.lm_head.get(),
                   .products = context.products,
                   .reduction = context.reduction,
                   .largest = largest});
}

Tensor ForwardLogits(const ForwardContext& context, const ModelWeights& weights,
                     const Tensor& hidden) {
  return ForwardLogits(context, LogitBuffers(context, weights, hidden.dim(0)), weights, hidden);
}

}  // namespace fireq
