#include "fireq/checkpoint/model_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "fireq/checkpoint/gguf_source.h"
#include "fireq/formats/f16.h"
#include "tests/checkpoint/checkpoint_testing.h"
#include "tests/checkpoint/small_gguf.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

void ExpectSameWeights(const ModelSource& source, const SmallWeights& weights) {
  for (const NamedShape& tensor : FloatTensors(source.config())) {
    const Tensor loaded = source.LoadFiniteF32(tensor.name);
    ASSERT_EQ(loaded.shape(), tensor.shape) << tensor.name;
    const std::vector<float>& expected = weights.at(tensor.name);
    EXPECT_EQ(std::vector<float>(loaded.as<float>(), loaded.as<float>() + loaded.num_elements()),
              expected)
        << tensor.name;
  }
}

class Source : public ::testing::Test {
 protected:
  std::string OpenError(ErrorCode code) {
    return ErrorOf([&] { ModelSource::Open(dir_.path()); }, code);
  }
  ModelConfig config_ = SmallConfig();
  SmallWeights weights_ = RandomSmallWeights(config_, 3);
  TemporaryDirectory dir_;
};

TEST_F(Source, EveryContainerGivesTheSameFloats) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t max_shard_bytes : {kDefaultShardBytes, int64_t{2000}}) {
      const TemporaryDirectory dir;
      WriteSmallModel(dir.path(), config_, weights_, dtype, max_shard_bytes);
      const auto source = ModelSource::Open(dir.path());
      EXPECT_EQ(source->Load(kEmbeddingName).dtype(), dtype);
      ExpectSameWeights(*source, weights_);
    }
    WriteBytes(dir_ / "m.gguf", SmallGguf(config_, weights_, dtype).Build());
    const auto source = ModelSource::Open(dir_ / "m.gguf");
    EXPECT_EQ(ToHuggingFaceJson(source->config()), ToHuggingFaceJson(config_));
    ExpectSameWeights(*source, weights_);
  }
}

TEST_F(Source, EveryFamilyOfGgufHasItsBiasesNormsAndRowOrder) {
  ModelConfig biased = config_;  // llama with attention_bias: its rows are permuted too
  biased.qkv_bias = biased.o_bias = biased.mlp_bias = true;
  ModelConfig qwen2 = config_;
  qwen2.family = "qwen2";
  qwen2.architecture = "Qwen2ForCausalLM";
  qwen2.qkv_bias = true;
  ModelConfig qwen3 = config_;
  qwen3.family = "qwen3";
  qwen3.architecture = "Qwen3ForCausalLM";
  qwen3.qk_norm = true;
  for (const ModelConfig& config : {biased, qwen2, qwen3}) {
    const SmallWeights weights = RandomSmallWeights(config, 9);
    WriteBytes(dir_ / "m.gguf", SmallGguf(config, weights, DType::kF32).Build());
    WriteSmallModel(dir_ / "hf", config, weights);
    for (const char* name : {"m.gguf", "hf"}) {
      const auto source = ModelSource::Open(dir_ / name);
      EXPECT_EQ(ToHuggingFaceJson(source->config()), ToHuggingFaceJson(config));
      EXPECT_EQ(source->config().qkv_bias, config.qkv_bias);
      ExpectSameWeights(*source, weights);
    }
  }
}

TEST_F(Source, RealModel) {
  if (!TestData()) GTEST_SKIP() << "FIREQ_TEST_DATA is not set";
  const auto source = ModelSource::Open(*TestData() / "models/stories260K");
  EXPECT_EQ(source->config().num_layers, 5);
  EXPECT_EQ(source->LoadFiniteF32(kEmbeddingName).shape(), (Shape{512, 64}));
}

TEST_F(Source, EndTokensComeFromTheGenerationConfigIfItHasAny) {
  WriteSmallModel(dir_.path(), config_, weights_);
  WriteBytes(dir_ / "generation_config.json", R"({"eos_token_id":[3,5]})");
  EXPECT_EQ(ModelSource::Open(dir_.path())->config().eos_ids, (std::vector<int64_t>{3, 5}));
  WriteBytes(dir_ / "generation_config.json", R"({"temperature":1})");
  EXPECT_EQ(ModelSource::Open(dir_.path())->config().eos_ids, (std::vector<int64_t>{2}));
  WriteBytes(dir_ / "generation_config.json", R"({"eos_token_id":[3,99]})");
  EXPECT_THAT(OpenError(ErrorCode::kCorrupt),
              HasSubstr("generation_config.json: eos_token_id[1]: expected an integer in 0..18"));
}

TEST_F(Source, AuxiliaryFilesAreListed) {
  WriteSmallModel(dir_.path(), config_, weights_);
  WriteBytes(dir_ / "tokenizer.json", "{}");
  WriteBytes(dir_ / "chat_template.jinja", "");
  WriteBytes(dir_ / "README.md", "");
  const auto source = ModelSource::Open(dir_.path());
  EXPECT_EQ(source->tokenizer_directory(), dir_.path());
  EXPECT_EQ(source->AuxiliaryFiles(),
            (std::vector<fs::path>{dir_ / "tokenizer.json", dir_ / "chat_template.jinja"}));
}

TEST_F(Source, TiedModelsMayCarryAnUnusedHead) {
  WriteSmallModel(dir_.path(), config_, weights_);  // with lm_head.weight
  config_.tied_embeddings = true;
  WriteConfig(dir_.path(), ToHuggingFaceJson(config_));
  EXPECT_TRUE(ModelSource::Open(dir_.path())->config().tied_embeddings);
}

TEST_F(Source, NotAModel) {
  EXPECT_THAT(ErrorOf([&] { ModelSource::Open(dir_ / "x"); }, ErrorCode::kNotFound),
              HasSubstr("x: no such file or directory"));
  EXPECT_THAT(OpenError(ErrorCode::kNotFound), HasSubstr("has no config.json"));
  WriteBytes(dir_ / "f", "hello world");
  EXPECT_THAT(ErrorOf([&] { ModelSource::Open(dir_ / "f"); }, ErrorCode::kUnsupported),
              HasSubstr("neither a directory nor a GGUF file"));
  WriteConfig(dir_.path(), ToHuggingFaceJson(config_));
  EXPECT_THAT(OpenError(ErrorCode::kNotFound), HasSubstr("has neither model.safetensors nor"));
  Json json = ToHuggingFaceJson(config_);
  json["quantization_config"] = {{"quant_method", "awq"}};
  WriteConfig(dir_.path(), json);
  EXPECT_THAT(OpenError(ErrorCode::kUnsupported),
              HasSubstr("quantization_config.quant_method: models quantised by \"awq\""));
  json["quantization_config"] = {{"quant_method", "fireq"}};
  WriteConfig(dir_.path(), json);
  EXPECT_THAT(OpenError(ErrorCode::kUnsupported), HasSubstr("a float model is needed here"));
}

// Writes the model with its list of tensors changed.
class BadTensors : public Source {
 protected:
  void Write(const std::function<void(std::vector<TensorSpec>&)>& change) {
    std::vector<TensorSpec> specs;
    for (const NamedShape& t : FloatTensors(config_))
      specs.push_back({t.name, DType::kF32, t.shape});
    change(specs);
    SafetensorsWriter writer(dir_.path(), specs);
    for (const TensorSpec& t : specs) writer.Write(t.name, Tensor::Zeros(t.dtype, t.shape));
    writer.Finish();
    WriteConfig(dir_.path(), ToHuggingFaceJson(config_));
  }
};

TEST_F(BadTensors, AreNamed) {
  Write([](auto& specs) {
    std::erase_if(specs, [](auto& t) { return t.name.ends_with("k_proj.weight"); });
  });
  EXPECT_THAT(OpenError(ErrorCode::kNotFound),
              HasSubstr("2 tensors are missing: model.layers.0.self_attn.k_proj.weight, "
                        "model.layers.1.self_attn.k_proj.weight"));
  Write([](auto& specs) { specs[0].shape = {20, 40}; });
  EXPECT_THAT(OpenError(ErrorCode::kCorrupt),
              HasSubstr("model.safetensors: model.embed_tokens.weight: shape [20, 40], config.json "
                        "asks for [19, 40]"));
  Write([](auto& specs) { specs[1].dtype = DType::kE4M3; });
  EXPECT_THAT(OpenError(ErrorCode::kUnsupported),
              HasSubstr("model.layers.0.input_layernorm.weight: dtype F8_E4M3 is not supported"));
  Write([](auto& specs) {
    specs.push_back({"model.layers.0.self_attn.q_proj.bias", DType::kF32, {32}});
  });
  EXPECT_THAT(OpenError(ErrorCode::kUnsupported),
              HasSubstr("model.layers.0.self_attn.q_proj.bias: a LlamaForCausalLM of this "
                        "config.json has no such tensor"));
  Write([](auto& specs) {
    specs.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {4}});
  });
  EXPECT_NO_THROW(ModelSource::Open(dir_.path()));
}

TEST_F(Source, NonFiniteWeightsAreRefusedByNameAndIndex) {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  weights_[name][3 * 40 + 17] = std::numeric_limits<float>::quiet_NaN();
  weights_[kFinalNormName][5] = -std::numeric_limits<float>::infinity();
  WriteSmallModel(dir_.path(), config_, weights_);
  const auto source = ModelSource::Open(dir_.path());
  EXPECT_EQ(ErrorOf([&] { source->LoadFiniteF32(name); }, ErrorCode::kCorrupt),
            name + ": nan at [3, 17]");
  EXPECT_EQ(ErrorOf([&] { source->LoadFiniteF32(kFinalNormName); }, ErrorCode::kCorrupt),
            "model.norm.weight: -inf at [5]");
  EXPECT_NO_THROW(source->LoadFiniteF32(kEmbeddingName));
}

TEST(ToF32, EveryHalfAndEveryBf16) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const Tensor halves = ToF32(Tensor::FromVector(DType::kF16, {65536}, all), "h");
  const Tensor bf16s = ToF32(Tensor::FromVector(DType::kBF16, {65536}, all), "b");
  for (size_t i = 0; i < all.size(); ++i) {
    const float half = F16ToFloat(all[i]);
    EXPECT_EQ(std::bit_cast<uint32_t>(halves.as<float>()[i]), std::bit_cast<uint32_t>(half)) << i;
    EXPECT_EQ(std::bit_cast<uint32_t>(bf16s.as<float>()[i]), static_cast<uint32_t>(i) << 16);
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      const Tensor one = Tensor::FromVector<uint16_t>(dtype, {1}, {all[i]});
      const bool finite = std::isfinite(dtype == DType::kF16 ? half : bf16s.as<float>()[i]);
      bool passed = true;
      try {
        CheckFinite(one, "x");
      } catch (const Error&) {
        passed = false;
      }
      ASSERT_EQ(passed, finite) << i;
    }
  }
  EXPECT_THROW(ToF32(Tensor::Zeros(DType::kU8, {1}), "u"), Error);
}

}  // namespace
}  // namespace fireq
