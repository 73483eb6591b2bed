#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fireq/checkpoint/model_config_json.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/io/json.h"
#include "tests/checkpoint/checkpoint_testing.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json SmallJson() { return ToHuggingFaceJson(SmallConfig()); }

// What parsing fails with after `key` (or "outer/inner") has become `value`.
std::string ErrorWith(const std::string& pointer, const Json& value, ErrorCode code) {
  Json json = SmallJson();
  json[Json::json_pointer("/" + pointer)] = value;
  return ErrorOf([&] { ParseModelConfig(json, "config.json"); }, code);
}
std::string Corrupt(const std::string& pointer, const Json& value) {
  return ErrorWith(pointer, value, ErrorCode::kCorrupt);
}
std::string Unsupported(const std::string& pointer, const Json& value) {
  return ErrorWith(pointer, value, ErrorCode::kUnsupported);
}

void ExpectEqual(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(ToHuggingFaceJson(a), ToHuggingFaceJson(b));
  EXPECT_EQ(a.rms_eps, b.rms_eps);
  EXPECT_EQ(a.qkv_bias, b.qkv_bias);
  EXPECT_EQ(a.o_bias, b.o_bias);
  EXPECT_EQ(a.qk_norm, b.qk_norm);
  EXPECT_EQ(a.eos_ids, b.eos_ids);
}

TEST(ModelConfig, WrittenConfigurationsReadBackEqual) {
  ModelConfig c = SmallConfig();
  c.eos_ids = {2, 5, 7};
  c.rope = {500000, RopeScaling::kLlama3, 32, 1, 4, 8192};
  c.rms_eps = 1e-6f;
  c.tied_embeddings = true;
  c.qkv_bias = c.o_bias = c.mlp_bias = true;
  ExpectEqual(ParseModelConfig(ToHuggingFaceJson(c), "config.json"), c);
  c = SmallConfig();
  c.bos_id = -1;
  c.eos_ids = {};
  ExpectEqual(ParseModelConfig(ToHuggingFaceJson(c), "config.json"), c);
  EXPECT_EQ(ToHuggingFaceJson(c)["rms_norm_eps"].dump(), "1e-05");
}

TEST(ModelConfig, RealConfigurations) {
  if (!TestData()) GTEST_SKIP() << "FIREQ_TEST_DATA is not set";
  const auto read = [](const std::string& name) {
    const auto path = *TestData() / "configs" / name;
    const ModelConfig c = ParseModelConfig(ReadJsonFile(path), path.string());
    ExpectEqual(ParseModelConfig(ToHuggingFaceJson(c), "again"), c);
    return c;
  };
  int count = 0;
  for (const std::string& name : FileNames(*TestData() / "configs")) {
    read(name);
    ++count;
  }
  EXPECT_GE(count, 12);
  const ModelConfig llama = read("llama3_1_8b.json");
  EXPECT_EQ(llama.head_dim, 128);
  EXPECT_EQ(llama.num_kv_heads, 8);
  EXPECT_EQ(llama.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(llama.rope.factor, 8);
  EXPECT_EQ(llama.rope.theta, 500000);
  EXPECT_EQ(llama.eos_ids, (std::vector<int64_t>{128001, 128008, 128009}));
  EXPECT_FALSE(llama.qkv_bias);
  const ModelConfig smollm = read("smollm2_135m.json");
  EXPECT_TRUE(smollm.tied_embeddings);
  EXPECT_EQ(smollm.head_dim, 64);
  const ModelConfig qwen2 = read("qwen2_0_5b.json");
  EXPECT_EQ(qwen2.family, "qwen2");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias);
  const ModelConfig qwen3 = read("qwen3_0.6b.json");
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(read("mistral_7b_v03.json").architecture, "MistralForCausalLM");
  EXPECT_EQ(read("llama2_7b.json").num_kv_heads, 32);  // absent: as many as query heads
}

TEST(ModelConfig, RopeParametersReplaceRopeScaling) {
  Json json = SmallJson();
  json.erase("rope_theta");
  json.erase("rope_scaling");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1234.5}};
  EXPECT_EQ(ParseModelConfig(json, "c").rope.theta, 1234.5);
  json["rope_parameters"] = {{"rope_type", "llama3"},   {"rope_theta", 5e5},
                             {"factor", 8.0},           {"low_freq_factor", 1.0},
                             {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 16}};
  EXPECT_EQ(ParseModelConfig(json, "c").rope.original_context, 16);
  json.erase("rope_parameters");
  json["rope_scaling"] = {{"type", "llama3"}};  // the older key of the type
  EXPECT_THAT(ErrorOf([&] { ParseModelConfig(json, "c"); }, ErrorCode::kCorrupt),
              HasSubstr("c: rope_scaling.factor: expected a number"));
}

TEST(ModelConfig, MistypedAndContradictoryValuesAreNamed) {
  EXPECT_EQ(Corrupt("hidden_size", "x"),
            R"(config.json: hidden_size: expected an integer in 1..16777216, got "x")");
  EXPECT_THAT(Corrupt("num_hidden_layers", 0), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(Corrupt("num_hidden_layers", 1e18), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(Corrupt("vocab_size", -1), HasSubstr("vocab_size"));
  EXPECT_THAT(Corrupt("vocab_size", nullptr), HasSubstr("vocab_size: expected an integer"));
  EXPECT_THAT(Corrupt("num_key_value_heads", 3),
              HasSubstr("4 attention heads are not a multiple of 3 KV heads"));
  EXPECT_THAT(Corrupt("rms_norm_eps", 0), HasSubstr("rms_norm_eps must be positive, got 0"));
  EXPECT_THAT(Corrupt("eos_token_id", 19), HasSubstr("eos_token_id: expected an integer in 0..18"));
  EXPECT_THAT(Corrupt("eos_token_id", {2, "a"}), HasSubstr("eos_token_id[1]"));
  EXPECT_THAT(Corrupt("architectures", {1}), HasSubstr("architectures[0]: expected a string"));
  Json json = SmallJson();
  json.erase("head_dim");
  json["num_attention_heads"] = 6;
  EXPECT_THAT(ErrorOf([&] { ParseModelConfig(json, "config.json"); }, ErrorCode::kCorrupt),
              HasSubstr("hidden_size: 40 is not a multiple of num_attention_heads 6"));
  EXPECT_THROW(ParseModelConfig(Json::array(), "config.json"), Error);
  EXPECT_THROW(ParseModelConfig(Json::object(), "config.json"), Error);
}

TEST(ModelConfig, WhatIsNotSupportedIsRefusedByName) {
  EXPECT_THAT(Unsupported("architectures", {"GemmaForCausalLM"}),
              HasSubstr("architecture \"GemmaForCausalLM\" is not supported (supported: "
                        "LlamaForCausalLM, MistralForCausalLM"));
  EXPECT_THAT(Unsupported("model_type", "mamba"), HasSubstr("model_type \"mamba\""));
  EXPECT_THAT(Unsupported("head_dim", 12), HasSubstr("a head dim of 12 is not supported"));
  EXPECT_THAT(Unsupported("hidden_act", "gelu"), HasSubstr("activation \"gelu\""));
  EXPECT_THAT(Unsupported("sliding_window", 32),
              HasSubstr("sliding_window: an active sliding window of 32 tokens (context 64)"));
  for (const char* kind : {"linear", "dynamic", "yarn", "longrope"}) {
    EXPECT_THAT(Unsupported("rope_scaling", {{"rope_type", kind}, {"factor", 2.0}}),
                HasSubstr(StrCat("rope_scaling.rope_type: RoPE scaling \"", kind, "\"")));
    EXPECT_THAT(Unsupported("rope_scaling", {{"type", kind}, {"factor", 2.0}}),
                HasSubstr(StrCat("rope_scaling.type: RoPE scaling \"", kind, "\"")));
  }
  EXPECT_THAT(Unsupported("partial_rotary_factor", 0.5), HasSubstr("partial RoPE"));
  EXPECT_THAT(Unsupported("rope_interleaved", true), HasSubstr("interleaved RoPE"));
}

TEST(ModelConfig, SlidingWindowsThatHideNothingArePassed) {
  Json json = SmallJson();
  json["sliding_window"] = 64;
  EXPECT_NO_THROW(ParseModelConfig(json, "c"));
  json["model_type"] = "qwen2";
  json["architectures"] = {"Qwen2ForCausalLM"};
  json["sliding_window"] = 8;
  json["use_sliding_window"] = false;
  EXPECT_NO_THROW(ParseModelConfig(json, "c"));
  json["use_sliding_window"] = true;
  EXPECT_THAT(ErrorOf([&] { ParseModelConfig(json, "c"); }, ErrorCode::kUnsupported),
              HasSubstr("an active sliding window of 8"));
  json["model_type"] = "mistral";
  json["architectures"] = {"MistralForCausalLM"};
  json["max_position_embeddings"] = 32768;
  json.erase("sliding_window");  // the family's default is 4096
  EXPECT_THAT(ErrorOf([&] { ParseModelConfig(json, "c"); }, ErrorCode::kUnsupported),
              HasSubstr("an active sliding window of 4096"));
  json["sliding_window"] = nullptr;
  EXPECT_NO_THROW(ParseModelConfig(json, "c"));
}

QuantConfig SomeQuantConfig() {
  QuantConfig q;
  q.arithmetic = {true, Activations::kE4M3, true, false, KvGrid::kSigned};
  q.crs = true;
  q.excluded = {"model.layers.0.mlp.down_proj"};
  q.recipe_json = R"({"name":"fireq"})";
  return q;
}

TEST(QuantConfig, WrittenConfigurationsReadBackEqual) {
  for (const KvGrid grid :
       {KvGrid::kFloat, KvGrid::kSymmetric, KvGrid::kSigned, KvGrid::kAsymmetric}) {
    for (int bits = 0; bits < 256; ++bits) {
      QuantConfig q;
      if ((bits & 2) != 0)
        q.arithmetic.activations = (bits & 128) != 0 ? Activations::kInt8 : Activations::kE4M3;
      q.arithmetic.bf16_borders = (bits & 1) != 0;
      q.arithmetic.e4m3_query = (bits & 4) != 0;
      q.arithmetic.e4m3_probs = (bits & 8) != 0;
      q.arithmetic.kv = grid;
      q.crs = (bits & 16) != 0;
      q.qk_hadamard = (bits & 32) != 0;
      q.key_shift = (bits & 64) != 0;
      const QuantConfig read = ParseQuantConfig(ToJson(q));
      EXPECT_EQ(read.arithmetic, q.arithmetic);
      EXPECT_EQ(read.crs, q.crs);
      EXPECT_EQ(read.qk_hadamard, q.qk_hadamard);
      EXPECT_EQ(read.key_shift, q.key_shift);
    }
    EXPECT_EQ(ParseKvGrid(Name(grid)), grid);
  }
  const QuantConfig read = ParseQuantConfig(ToJson(SomeQuantConfig()));
  Json older = ToJson(SomeQuantConfig());
  older.erase("key_shift");
  EXPECT_FALSE(ParseQuantConfig(older).key_shift);
  EXPECT_EQ(read.excluded, SomeQuantConfig().excluded);
  EXPECT_EQ(read.recipe_json, SomeQuantConfig().recipe_json);
}

TEST(QuantConfig, EveryBadValueNamesItsPath) {
  const auto error = [](const std::string& pointer, const Json& value, ErrorCode code) {
    Json json = ToJson(SomeQuantConfig());
    json[Json::json_pointer("/" + pointer)] = value;
    return ErrorOf([&] { ParseQuantConfig(json); }, code);
  };
  EXPECT_THAT(error("quant_method", "gptq", ErrorCode::kUnsupported),
              HasSubstr("config.json: quantization_config.quant_method: \"gptq\""));
  EXPECT_THAT(error("format_version", 2, ErrorCode::kUnsupported),
              HasSubstr("format_version: 2 is newer than this FireQ, which reads up to 1"));
  EXPECT_THAT(error("group_size", 64, ErrorCode::kUnsupported), HasSubstr("group_size: 64"));
  EXPECT_THAT(error("arithmetic/kv", "log", ErrorCode::kUnsupported),
              HasSubstr("quantization_config.arithmetic.kv: unknown grid \"log\""));
  EXPECT_THAT(error("arithmetic/probs", "int8", ErrorCode::kUnsupported),
              HasSubstr("arithmetic.probs: expected \"e4m3\" or \"float\", got \"int8\""));
  EXPECT_THAT(error("arithmetic/activations", "int4", ErrorCode::kUnsupported),
              HasSubstr("activations: expected \"e4m3\" or \"int8\" or \"float\", got \"int4\""));
  EXPECT_THAT(error("arithmetic/extra", 1, ErrorCode::kCorrupt),
              HasSubstr("arithmetic.extra: unknown key"));
  EXPECT_THAT(error("crs", 1, ErrorCode::kCorrupt), HasSubstr("crs: expected true or false"));
  EXPECT_THAT(error("excluded", {1}, ErrorCode::kCorrupt), HasSubstr("excluded[0]"));
  EXPECT_THAT(error("new_field", 1, ErrorCode::kCorrupt), HasSubstr("new_field: unknown key"));
  EXPECT_THAT(ErrorOf([] { ParseKvGrid("log"); }, ErrorCode::kInvalidArgument),
              HasSubstr("\"log\" (float, symmetric, signed, asymmetric)"));
}

}  // namespace
}  // namespace fireq
