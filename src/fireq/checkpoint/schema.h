// Names and shapes of a model's tensors: what checkpoints hold and every reader may expect.
//
// Names are Hugging Face's for Llama-like models. A *linear* is named without ".weight":
// "model.layers.0.self_attn.q_proj". In a quantised checkpoint its weight is stored as four
// tensors (formats/weight_i4.h): LINEAR + each of the kStored... suffixes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/io/safetensors_writer.h"
#include "fireq/tensor/tensor.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq {

inline constexpr std::string_view kQuantMethod = "fireq";
inline constexpr int64_t kFormatVersion = 1;

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";  // [V, D]
inline constexpr const char* kFinalNormName = "model.norm.weight";          // [D]
inline constexpr const char* kLmHeadName = "lm_head.weight";                // [V, D], if untied

// A quantised linear is four tensors: kStoredCodes and the others of tensor/weight_i4.h.
enum class Linear : uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr std::array<Linear, 7> kLinears = {
    Linear::kQ, Linear::kK, Linear::kV, Linear::kO, Linear::kGate, Linear::kUp, Linear::kDown};

// "model.layers.3.self_attn.q_proj"
std::string LinearName(int64_t layer, Linear linear);
// {N, K}: output rows and input columns.
Shape LinearShape(const ModelConfig& config, Linear linear);
bool HasBias(const ModelConfig& config, Linear linear);

// "model.layers.3." + name, for the names below.
std::string LayerTensorName(int64_t layer, std::string_view name);
inline constexpr std::string_view kInputNorm = "input_layernorm.weight";          // [D]
inline constexpr std::string_view kPostNorm = "post_attention_layernorm.weight";  // [D]
inline constexpr std::string_view kQNorm = "self_attn.q_norm.weight";             // [Dh]
inline constexpr std::string_view kKNorm = "self_attn.k_norm.weight";             // [Dh]
inline constexpr std::string_view kCrsKFactor = "self_attn.crs_k_factor";         // [Hk, Dh]
inline constexpr std::string_view kCrsQFactor = "self_attn.crs_q_factor";         // [Hk, Dh]
inline constexpr std::string_view kKeyShift = "self_attn.key_shift";              // [Hk, Dh]

struct NamedShape {
  std::string name;
  Shape shape;
};

// Every tensor that a float model of this configuration consists of, layer by layer (lm_head only
// if it is not tied).
std::vector<NamedShape> FloatTensors(const ModelConfig& config);

// Every tensor of a quantised checkpoint with the dtype it is stored in: norms, biases, CRS factors
// and t in F32; embedding, lm_head and excluded linears in BF16.
std::vector<TensorSpec> StoredTensors(const ModelConfig& config, const QuantConfig& quant);

}  // namespace fireq
