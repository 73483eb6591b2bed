#include "fireq/checkpoint/schema.h"

#include <algorithm>

#include "fireq/base/error.h"

namespace fireq {
namespace {

const char* LinearSuffix(Linear linear) {
  switch (linear) {
    case Linear::kQ:
      return "self_attn.q_proj";
    case Linear::kK:
      return "self_attn.k_proj";
    case Linear::kV:
      return "self_attn.v_proj";
    case Linear::kO:
      return "self_attn.o_proj";
    case Linear::kGate:
      return "mlp.gate_proj";
    case Linear::kUp:
      return "mlp.up_proj";
    case Linear::kDown:
      return "mlp.down_proj";
  }
  return "?";
}

// The tensors of a layer that are vectors: norms.
std::vector<NamedShape> LayerNorms(const ModelConfig& config, int64_t layer) {
  std::vector<NamedShape> norms = {{LayerTensorName(layer, kInputNorm), {config.hidden}},
                                   {LayerTensorName(layer, kPostNorm), {config.hidden}}};
  if (config.qk_norm) {
    norms.push_back({LayerTensorName(layer, kQNorm), {config.head_dim}});
    norms.push_back({LayerTensorName(layer, kKNorm), {config.head_dim}});
  }
  return norms;
}

void AddStoredLinear(const ModelConfig& config, const QuantConfig& quant, int64_t layer,
                     Linear linear, std::vector<TensorSpec>& out) {
  const std::string name = LinearName(layer, linear);
  const Shape shape = LinearShape(config, linear);
  const WeightI4Layout layout = {shape[0], shape[1]};
  if (std::find(quant.excluded.begin(), quant.excluded.end(), name) != quant.excluded.end()) {
    out.push_back({name + ".weight", DType::kBF16, shape});
  } else {
    out.push_back({name + kStoredCodes, DType::kU8, {layout.n, layout.code_bytes_per_row()}});
    out.push_back({name + kStoredScale, DType::kE4M3, {layout.n, layout.groups()}});
    out.push_back({name + kStoredZero, DType::kU8, {layout.n, layout.groups()}});
    out.push_back({name + kStoredT, DType::kF32, {}});
  }
  if (HasBias(config, linear)) out.push_back({name + ".bias", DType::kF32, {shape[0]}});
}

}  // namespace

std::string LayerTensorName(int64_t layer, std::string_view name) {
  return StrCat("model.layers.", layer, ".", name);
}

std::string LinearName(int64_t layer, Linear linear) {
  return LayerTensorName(layer, LinearSuffix(linear));
}

Shape LinearShape(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::kQ:
      return {config.q_rows(), config.hidden};
    case Linear::kK:
    case Linear::kV:
      return {config.kv_rows(), config.hidden};
    case Linear::kO:
      return {config.hidden, config.q_rows()};
    case Linear::kGate:
    case Linear::kUp:
      return {config.ffn, config.hidden};
    case Linear::kDown:
      return {config.hidden, config.ffn};
  }
  return {};
}

bool HasBias(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::kQ:
    case Linear::kK:
    case Linear::kV:
      return config.qkv_bias;
    case Linear::kO:
      return config.o_bias;
    case Linear::kGate:
    case Linear::kUp:
    case Linear::kDown:
      return config.mlp_bias;
  }
  return false;
}

std::vector<NamedShape> FloatTensors(const ModelConfig& config) {
  std::vector<NamedShape> out = {{kEmbeddingName, {config.vocab_size, config.hidden}}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (NamedShape& norm : LayerNorms(config, layer)) out.push_back(std::move(norm));
    for (const Linear linear : kLinears) {
      const std::string name = LinearName(layer, linear);
      const Shape shape = LinearShape(config, linear);
      out.push_back({name + ".weight", shape});
      if (HasBias(config, linear)) out.push_back({name + ".bias", {shape[0]}});
    }
  }
  out.push_back({kFinalNormName, {config.hidden}});
  if (!config.tied_embeddings) out.push_back({kLmHeadName, {config.vocab_size, config.hidden}});
  return out;
}

std::vector<TensorSpec> StoredTensors(const ModelConfig& config, const QuantConfig& quant) {
  const Shape embedding = {config.vocab_size, config.hidden};
  std::vector<TensorSpec> out = {{kEmbeddingName, DType::kBF16, embedding}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const NamedShape& norm : LayerNorms(config, layer)) {
      out.push_back({norm.name, DType::kF32, norm.shape});
    }
    for (const Linear linear : kLinears) AddStoredLinear(config, quant, layer, linear, out);
    const Shape factors = {config.num_kv_heads, config.head_dim};
    if (quant.key_shift) out.push_back({LayerTensorName(layer, kKeyShift), DType::kF32, factors});
    if (!quant.crs) continue;
    out.push_back({LayerTensorName(layer, kCrsKFactor), DType::kF32, factors});
    out.push_back({LayerTensorName(layer, kCrsQFactor), DType::kF32, factors});
  }
  out.push_back({kFinalNormName, DType::kF32, {config.hidden}});
  if (!config.tied_embeddings) out.push_back({kLmHeadName, DType::kBF16, embedding});
  return out;
}

}  // namespace fireq
