#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/checkpoint/families.h"
#include "fireq/checkpoint/gguf_source.h"
#include "fireq/checkpoint/model_config_json.h"
#include "fireq/io/json.h"

namespace fireq {
namespace {

constexpr const char* kRopeFactors = "rope_freqs.weight";

// What llama3 scaling divides the frequency of pair `i` by: 1 for short wavelengths, `factor` for
// long ones, and something smooth between. Source: Llama 3.1's reference implementation.
double Llama3Divisor(const RopeConfig& rope, int64_t head_dim, int64_t i) {
  const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
  const double wavelength = 2 * std::numbers::pi * std::pow(rope.theta, exponent);
  const double turns = static_cast<double>(rope.original_context) / wavelength;
  if (turns > rope.high_freq_factor) return 1;
  if (turns < rope.low_freq_factor) return rope.factor;
  const double smooth =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return 1 / ((1 - smooth) / rope.factor + smooth);
}

// GGUF does not state llama3's parameters but one divisor for each pair. All such models share
// low_freq_factor 1, high_freq_factor 4 and 8192 tokens; the factor is the last divisor.
void InferLlama3Scaling(const GgufFile& file, int64_t head_dim, RopeConfig& rope) {
  if (!file.Has(kRopeFactors)) return;
  const std::string place = StrCat(file.path().string(), ": ", kRopeFactors);
  const Tensor divisors = file.Get(kRopeFactors);
  FIREQ_CHECK(divisors.dtype() == DType::kF32 && divisors.shape() == Shape{head_dim / 2}, kCorrupt,
              place, ": expected F32 [", head_dim / 2, "], got ", Name(divisors.dtype()), " ",
              ToString(divisors.shape()));
  const float* values = divisors.as<float>();
  rope.scaling = RopeScaling::kLlama3;
  rope.factor = values[head_dim / 2 - 1];
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_context = 8192;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double expected = Llama3Divisor(rope, head_dim, i);
    FIREQ_CHECK(std::abs(values[i] - expected) <= 1e-3 * expected, kUnsupported, place, ": ",
                values[i], " at [", i, "] is not that of llama3 scaling by ", rope.factor, " (",
                expected, "): only that RoPE scaling is supported");
  }
}

RopeConfig ParseRope(const GgufFile& file, const JsonObject& json, const std::string& prefix,
                     int64_t head_dim) {
  RopeConfig rope;
  rope.theta = json.NumberOr(prefix + "rope.freq_base", 1, 1e12, rope.theta);
  const int64_t turned = json.IntOr(prefix + "rope.dimension_count", 1, kMaxDim, head_dim);
  FIREQ_CHECK(turned == head_dim, kUnsupported, json.PlaceOf(prefix + "rope.dimension_count"), ": ",
              turned, " of a head dim of ", head_dim, ": partial RoPE is not supported");
  const std::string type = json.StringOr(prefix + "rope.scaling.type", "none");
  const double linear = json.NumberOr(prefix + "rope.scale_linear", 0, 1e6, 1);
  FIREQ_CHECK(type == "none" || type == "llama3", kUnsupported,
              json.PlaceOf(prefix + "rope.scaling.type"), ": RoPE scaling \"", type,
              "\" is not supported");
  FIREQ_CHECK(linear == 1, kUnsupported, json.PlaceOf(prefix + "rope.scale_linear"),
              ": linear RoPE scaling is not supported");
  InferLlama3Scaling(file, head_dim, rope);
  return rope;
}

// What other architectures' arithmetic has beside that of the three that are supported: a file that
// says so is none of them, whatever it calls itself.
void RefuseOtherArithmetic(const JsonObject& json, const std::string& prefix, int64_t head_dim) {
  const std::string type = json.StringOr("general.type", "model");
  FIREQ_CHECK(type == "model", kUnsupported, json.PlaceOf("general.type"), ": \"", type,
              "\" is no model");
  const auto refuse = [&](const char* key, double value, bool neutral) {
    FIREQ_CHECK(neutral, kUnsupported, json.PlaceOf(prefix + key), ": ", value,
                " is not supported");
  };
  constexpr double kBound = 1e30;
  for (const char* key : {"attention.clamp_kqv", "attention.max_alibi_bias",
                          "attn_logit_softcapping", "final_logit_softcapping"}) {
    const double value = json.NumberOr(prefix + key, -kBound, kBound, 0);
    refuse(key, value, value == 0);
  }
  for (const char* key :
       {"logit_scale", "residual_scale", "embedding_scale", "rope.scaling.attn_factor"}) {
    const double value = json.NumberOr(prefix + key, -kBound, kBound, 1);
    refuse(key, value, value == 1 || value == 0);  // 0: not set
  }
  const double usual = 1 / std::sqrt(static_cast<double>(head_dim));
  const double scale = json.NumberOr(prefix + "attention.scale", -kBound, kBound, 0);
  refuse("attention.scale", scale, scale == 0 || std::abs(scale / usual - 1) < 1e-5);
  for (const auto& [key, usual_value] :
       {std::pair{"attention.causal", true}, std::pair{"use_parallel_residual", false}}) {
    const bool value = json.BoolOr(prefix + key, usual_value);
    FIREQ_CHECK(value == usual_value, kUnsupported, json.PlaceOf(prefix + key), ": ",
                value ? "true" : "false", " is not supported");
  }
}

void RefuseUnsupported(const JsonObject& json, const std::string& prefix, int64_t context) {
  const int64_t experts = json.IntOr(prefix + "expert_count", 0, kMaxDim, 0);
  FIREQ_CHECK(experts == 0, kUnsupported, json.PlaceOf(prefix + "expert_count"), ": ", experts,
              " experts: mixture-of-experts models are not supported");
  const int64_t window = json.IntOr(prefix + "attention.sliding_window", 0, INT64_MAX, 0);
  FIREQ_CHECK(window == 0 || window >= context, kUnsupported,
              json.PlaceOf(prefix + "attention.sliding_window"), ": an active sliding window of ",
              window, " tokens (context ", context, ") is not supported");
  const int64_t parts = json.IntOr("split.count", 0, kMaxDim, 1);
  FIREQ_CHECK(parts <= 1, kUnsupported, json.PlaceOf("split.count"), ": a file split into ", parts,
              " parts is not supported; merge the parts first");
}

void ParseSpecialTokens(const JsonObject& json, ModelConfig& c) {
  const auto id = [&](const char* key) { return json.IntOr(key, 0, c.vocab_size - 1, -1); };
  c.bos_id = id("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    const int64_t eos = id(key);
    if (eos < 0 || std::find(c.eos_ids.begin(), c.eos_ids.end(), eos) != c.eos_ids.end()) continue;
    c.eos_ids.push_back(eos);
  }
}

}  // namespace

ModelConfig GgufModelConfig(const GgufFile& file) {
  const std::string place = file.path().string();
  const JsonObject json(file.metadata(), place);
  const std::string name = json.String("general.architecture");
  const Family& family = FamilyOfGguf(name, place);
  const std::string prefix = name + ".";
  ModelConfig c;
  c.family = family.model_type;
  c.architecture = family.architecture;
  c.num_layers = json.Int(prefix + "block_count", 1, 10000);
  c.hidden = json.Int(prefix + "embedding_length", 1, kMaxDim);
  c.ffn = json.Int(prefix + "feed_forward_length", 1, kMaxDim);
  c.num_heads = json.Int(prefix + "attention.head_count", 1, kMaxDim);
  c.num_kv_heads = json.IntOr(prefix + "attention.head_count_kv", 1, kMaxDim, c.num_heads);
  c.head_dim = json.IntOr(prefix + "attention.key_length", 1, kMaxDim, c.hidden / c.num_heads);
  const int64_t value_dim = json.IntOr(prefix + "attention.value_length", 1, kMaxDim, c.head_dim);
  FIREQ_CHECK(value_dim == c.head_dim, kUnsupported,
              json.PlaceOf(prefix + "attention.value_length"), ": ", value_dim,
              " differs from the key length ", c.head_dim);
  c.max_context = json.Int(prefix + "context_length", 1, int64_t{1} << 31);
  c.rms_eps = static_cast<float>(json.Number(prefix + "attention.layer_norm_rms_epsilon", 0, 1));
  const auto embedding = file.entries().find("token_embd.weight");
  FIREQ_CHECK(embedding != file.entries().end() && embedding->second.shape.size() == 2, kNotFound,
              place, ": there is no two-dimensional token_embd.weight");
  c.vocab_size = embedding->second.shape[0];
  c.tied_embeddings = !file.Has("output.weight");
  c.o_bias = file.Has("blk.0.attn_output.bias");
  c.qkv_bias = family.always_qkv_bias || c.o_bias;
  c.mlp_bias = file.Has("blk.0.ffn_down.bias");
  c.qk_norm = family.qk_norm;
  ValidateModelConfig(c, place);
  RefuseUnsupported(json, prefix, c.max_context);
  RefuseOtherArithmetic(json, prefix, c.head_dim);
  c.rope = ParseRope(file, json, prefix, c.head_dim);
  ParseSpecialTokens(json, c);
  return c;
}

}  // namespace fireq
