#include "fireq/checkpoint/model_config_json.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "fireq/base/error.h"
#include "fireq/base/math.h"
#include "fireq/checkpoint/families.h"
#include "fireq/io/json.h"

namespace fireq {
namespace {

constexpr int64_t kMaxLayers = 10000;
constexpr int64_t kMaxContext = int64_t{1} << 31;
constexpr double kMaxTheta = 1e12;

const Family& ParseFamily(const JsonObject& json) {
  const std::string model_type = json.StringOr("model_type", "");
  const std::vector<std::string> architectures = json.Strings("architectures");
  FIREQ_CHECK(!model_type.empty() || !architectures.empty(), kCorrupt, json.place(),
              ": has neither architectures nor model_type");
  return FamilyOfConfig(architectures.empty() ? "" : architectures[0], model_type, json.place());
}

// "rope_parameters" (newer files) or "rope_scaling"; the former may also carry rope_theta.
RopeConfig ParseRope(const JsonObject& json) {
  RopeConfig rope;
  rope.theta = json.NumberOr("rope_theta", 1, kMaxTheta, rope.theta);
  const std::string key = json.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!json.Has(key)) return rope;
  const JsonObject scaling = json.Object(key);
  rope.theta = scaling.NumberOr("rope_theta", 1, kMaxTheta, rope.theta);
  FIREQ_CHECK(scaling.NumberOr("partial_rotary_factor", 0, 1, 1) == 1, kUnsupported,
              scaling.PlaceOf("partial_rotary_factor"), ": partial RoPE is not supported");
  const std::string type_key = scaling.Has("rope_type") ? "rope_type" : "type";
  const std::string type = scaling.StringOr(type_key, key == "rope_parameters" ? "default" : "");
  if (type == "default") return rope;
  FIREQ_CHECK(type == "llama3", kUnsupported, scaling.PlaceOf(type_key), ": RoPE scaling \"", type,
              "\" is not supported (\"llama3\" and \"default\" are)");
  rope.scaling = RopeScaling::kLlama3;
  rope.factor = scaling.Number("factor", 1, 1e6);
  rope.low_freq_factor = scaling.Number("low_freq_factor", 1e-6, 1e6);
  rope.high_freq_factor = scaling.Number("high_freq_factor", 1e-6, 1e6);
  rope.original_context = scaling.Int("original_max_position_embeddings", 1, kMaxContext);
  FIREQ_CHECK(rope.high_freq_factor > rope.low_freq_factor, kCorrupt,
              scaling.PlaceOf("high_freq_factor"), ": ", rope.high_freq_factor,
              " is not above low_freq_factor ", rope.low_freq_factor);
  return rope;
}

void RefuseSlidingWindow(const JsonObject& json, const Family& family, int64_t max_context) {
  const bool absent = !json.value().contains("sliding_window");
  const int64_t window =
      absent ? family.default_sliding_window : json.IntOr("sliding_window", 0, kMaxContext, 0);
  const bool switched_on =
      !family.sliding_window_needs_switch || json.BoolOr("use_sliding_window", false);
  // A window of at least the context hides nothing.
  FIREQ_CHECK(window == 0 || !switched_on || window >= max_context, kUnsupported,
              json.PlaceOf("sliding_window"), ": an active sliding window of ", window,
              " tokens (context ", max_context, ") is not supported",
              absent ? " (the family's default)" : "");
}

// Settings that would change the arithmetic; each is refused unless it says what FireQ does.
void RefuseOtherArithmetic(const JsonObject& json) {
  const std::string act = json.StringOr("hidden_act", "silu");
  FIREQ_CHECK(act == "silu" || act == "swish", kUnsupported, json.PlaceOf("hidden_act"),
              ": activation \"", act, "\" is not supported (\"silu\" is)");
  FIREQ_CHECK(!json.BoolOr("rope_interleaved", false), kUnsupported,
              json.PlaceOf("rope_interleaved"), ": interleaved RoPE is not supported");
  FIREQ_CHECK(json.NumberOr("partial_rotary_factor", 0, 1, 1) == 1, kUnsupported,
              json.PlaceOf("partial_rotary_factor"), ": partial RoPE is not supported");
}

// The double whose shortest decimal form is that of `value`: 1e-05, not 9.999999747378752e-06.
double AsWritten(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  double out = 0;
  std::from_chars(text, end, out);
  return out;
}

}  // namespace

ModelConfig ParseModelConfig(const nlohmann::json& value, const std::string& place) {
  const JsonObject json(value, place);
  const Family& family = ParseFamily(json);
  RefuseOtherArithmetic(json);
  ModelConfig c;
  c.family = family.model_type;
  c.architecture = family.architecture;
  c.num_layers = json.Int("num_hidden_layers", 1, kMaxLayers);
  c.hidden = json.Int("hidden_size", 1, kMaxDim);
  c.ffn = json.Int("intermediate_size", 1, kMaxDim);
  c.num_heads = json.Int("num_attention_heads", 1, kMaxDim);
  c.num_kv_heads = json.IntOr("num_key_value_heads", 1, kMaxDim, c.num_heads);
  FIREQ_CHECK(json.Has("head_dim") || c.hidden % c.num_heads == 0, kCorrupt,
              json.PlaceOf("hidden_size"), ": ", c.hidden,
              " is not a multiple of num_attention_heads ", c.num_heads,
              " and there is no head_dim");
  c.head_dim = json.IntOr("head_dim", 1, kMaxDim, c.hidden / c.num_heads);
  c.vocab_size = json.Int("vocab_size", 1, int64_t{1} << 28);
  c.max_context = json.IntOr("max_position_embeddings", 1, kMaxContext, 2048);
  c.rms_eps = static_cast<float>(json.NumberOr("rms_norm_eps", 0, 1, 1e-6));
  c.rope = ParseRope(json);
  c.tied_embeddings = json.BoolOr("tie_word_embeddings", false);
  const bool attention_bias = json.BoolOr("attention_bias", false);
  c.qkv_bias = family.always_qkv_bias || attention_bias;
  c.o_bias = !family.always_qkv_bias && attention_bias;
  c.mlp_bias = json.BoolOr("mlp_bias", false);
  c.qk_norm = family.qk_norm;
  const std::vector<int64_t> bos = json.Ints("bos_token_id", 0, c.vocab_size - 1);
  if (!bos.empty()) c.bos_id = bos[0];
  c.eos_ids = json.Ints("eos_token_id", 0, c.vocab_size - 1);
  RefuseSlidingWindow(json, family, c.max_context);
  ValidateModelConfig(c, place);
  return c;
}

void ValidateModelConfig(const ModelConfig& c, const std::string& place) {
  FIREQ_CHECK(c.num_layers > 0 && c.hidden > 0 && c.ffn > 0 && c.num_heads > 0 &&
                  c.num_kv_heads > 0 && c.head_dim > 0 && c.vocab_size > 0 && c.max_context > 0,
              kCorrupt, place, ": a dimension is not positive: layers ", c.num_layers, ", hidden ",
              c.hidden, ", ffn ", c.ffn, ", heads ", c.num_heads, "/", c.num_kv_heads, " of ",
              c.head_dim, ", vocabulary ", c.vocab_size, ", context ", c.max_context);
  FIREQ_CHECK(c.num_heads % c.num_kv_heads == 0, kCorrupt, place, ": ", c.num_heads,
              " attention heads are not a multiple of ", c.num_kv_heads, " KV heads");
  FIREQ_CHECK(c.head_dim % 8 == 0, kUnsupported, place, ": a head dim of ", c.head_dim,
              " is not supported (it must be a multiple of 8)");
  FIREQ_CHECK(CheckedMul(c.num_heads, c.head_dim, place) <= kMaxDim, kUnsupported, place, ": ",
              c.num_heads, " heads of ", c.head_dim, " exceed ", kMaxDim);
  FIREQ_CHECK(c.rms_eps > 0, kCorrupt, place, ": rms_norm_eps must be positive, got ", c.rms_eps);
}

nlohmann::json ToHuggingFaceJson(const ModelConfig& c) {
  nlohmann::json json = {{"architectures", {c.architecture}},
                         {"model_type", c.family},
                         {"num_hidden_layers", c.num_layers},
                         {"hidden_size", c.hidden},
                         {"intermediate_size", c.ffn},
                         {"num_attention_heads", c.num_heads},
                         {"num_key_value_heads", c.num_kv_heads},
                         {"head_dim", c.head_dim},
                         {"vocab_size", c.vocab_size},
                         {"max_position_embeddings", c.max_context},
                         {"rms_norm_eps", AsWritten(c.rms_eps)},
                         {"rope_theta", c.rope.theta},
                         {"rope_scaling", nullptr},
                         {"hidden_act", "silu"},
                         {"tie_word_embeddings", c.tied_embeddings},
                         {"attention_bias", c.o_bias},
                         {"mlp_bias", c.mlp_bias},
                         {"sliding_window", nullptr},
                         {"torch_dtype", "bfloat16"}};
  if (c.rope.scaling == RopeScaling::kLlama3) {
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", c.rope.factor},
                            {"low_freq_factor", c.rope.low_freq_factor},
                            {"high_freq_factor", c.rope.high_freq_factor},
                            {"original_max_position_embeddings", c.rope.original_context}};
  }
  if (c.bos_id >= 0) json["bos_token_id"] = c.bos_id;
  if (c.eos_ids.size() == 1) {
    json["eos_token_id"] = c.eos_ids[0];
  } else if (!c.eos_ids.empty()) {
    json["eos_token_id"] = c.eos_ids;
  }
  return json;
}

}  // namespace fireq
