#include "fireq/checkpoint/gguf_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "tests/checkpoint/small_gguf.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;

class GgufSource : public ::testing::Test {
 protected:
  GgufBuilder Small() { return SmallGguf(config_, RandomSmallWeights(config_, 3), DType::kF32); }
  ModelConfig ConfigOf(const GgufBuilder& builder) {
    WriteBytes(dir_ / "m.gguf", builder.Build());
    return ModelSource::Open(dir_ / "m.gguf")->config();
  }
  std::string OpenError(const GgufBuilder& builder, ErrorCode code) {
    return ErrorOf([&] { ConfigOf(builder); }, code);
  }
  // Llama 3's RoPE divisors as a converter writes them, for pairs of a head of `dim`.
  std::vector<float> Divisors(double factor, double theta, int64_t dim) {
    std::vector<float> out;
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double frequency =
          std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      const double wavelength = 2 * std::numbers::pi / frequency;
      const double smooth = (8192 / wavelength - 1) / (4 - 1);
      if (wavelength < 8192.0 / 4) {
        out.push_back(1);
      } else if (wavelength > 8192.0) {
        out.push_back(static_cast<float>(factor));
      } else {
        out.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
      }
    }
    return out;
  }
  ModelConfig config_ = SmallConfig();
  TemporaryDirectory dir_;
};

TEST_F(GgufSource, EndTokensAreEosEotAndEom) {
  GgufBuilder builder = Small();
  builder.U32("tokenizer.ggml.eot_token_id", 7).U32("tokenizer.ggml.eom_token_id", 2);
  EXPECT_EQ(ConfigOf(builder).eos_ids, (std::vector<int64_t>{2, 7}));
}

TEST_F(GgufSource, Llama3ScalingIsRecoveredFromItsDivisors) {
  config_.rope.theta = 500000;
  config_.head_dim = 64;
  for (const double factor : {8.0, 32.0}) {
    GgufBuilder builder = Small();
    AddSmallTensor(builder, "rope_freqs.weight", Divisors(factor, 500000, 64), {32}, DType::kF32);
    const RopeConfig rope = ConfigOf(builder).rope;
    EXPECT_EQ(rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(rope.factor, factor);
    EXPECT_EQ(rope.original_context, 8192);
  }
  std::vector<float> other = Divisors(8, 500000, 64);
  other[20] *= 1.01f;
  GgufBuilder builder = Small();
  AddSmallTensor(builder, "rope_freqs.weight", other, {32}, DType::kF32);
  EXPECT_THAT(OpenError(builder, ErrorCode::kUnsupported),
              AllOf(HasSubstr("rope_freqs.weight"), HasSubstr("at [20] is not that of llama3")));
}

TEST_F(GgufSource, WhatIsNotSupportedIsRefusedByName) {
  GgufBuilder builder;
  builder.String("general.architecture", "gemma2");
  EXPECT_THAT(OpenError(builder, ErrorCode::kUnsupported),
              HasSubstr("general.architecture \"gemma2\" is not supported (supported: llama,"));
  EXPECT_THAT(OpenError(Small().U32("llama.expert_count", 8), ErrorCode::kUnsupported),
              HasSubstr("llama.expert_count: 8 experts"));
  EXPECT_THAT(OpenError(Small().U32("llama.attention.sliding_window", 16), ErrorCode::kUnsupported),
              HasSubstr("an active sliding window of 16"));
  EXPECT_THAT(OpenError(Small().String("llama.rope.scaling.type", "yarn"), ErrorCode::kUnsupported),
              HasSubstr("llama.rope.scaling.type: RoPE scaling \"yarn\""));
  EXPECT_THAT(OpenError(Small().U32("llama.rope.dimension_count", 4), ErrorCode::kUnsupported),
              HasSubstr("partial RoPE"));
  EXPECT_THAT(OpenError(Small().U32("split.count", 3), ErrorCode::kUnsupported),
              HasSubstr("split into 3 parts"));
}

TEST_F(GgufSource, OtherArithmeticIsRefusedByName) {
  for (const char* key :
       {"attention.clamp_kqv", "attention.max_alibi_bias", "attn_logit_softcapping",
        "final_logit_softcapping", "logit_scale", "residual_scale", "embedding_scale",
        "rope.scaling.attn_factor", "attention.scale"}) {
    const std::string full = std::string("llama.") + key;
    EXPECT_THAT(OpenError(Small().F32(full, 0.0625f), ErrorCode::kUnsupported),
                HasSubstr(full + ": 0.0625 is not supported"));
    ConfigOf(Small().F32(full, 0));
  }
  EXPECT_THAT(OpenError(Small().String("general.type", "adapter"), ErrorCode::kUnsupported),
              HasSubstr("general.type: \"adapter\" is no model"));
  EXPECT_THAT(OpenError(Small().Bool("llama.attention.causal", false), ErrorCode::kUnsupported),
              HasSubstr("llama.attention.causal: false"));
  EXPECT_THAT(OpenError(Small().Bool("llama.use_parallel_residual", true), ErrorCode::kUnsupported),
              HasSubstr("llama.use_parallel_residual: true"));
  ConfigOf(Small().Bool("llama.attention.causal", true).F32("llama.logit_scale", 1));
}

TEST_F(GgufSource, WrongTensorsAndKeysAreNamed) {
  EXPECT_THAT(OpenError(GgufBuilder(), ErrorCode::kCorrupt),
              HasSubstr("general.architecture: expected a string, got nothing"));
  GgufBuilder builder = Small();
  builder.tensors.pop_back();
  EXPECT_THAT(OpenError(builder, ErrorCode::kNotFound),
              HasSubstr("tensor blk.1.ffn_down.weight is missing"));
  builder = Small();
  builder.Add("blk.0.attn_q.bias", {32}, 0, std::string(128, '\0'));
  EXPECT_THAT(OpenError(builder, ErrorCode::kUnsupported),
              HasSubstr("blk.0.attn_q.bias: a LlamaForCausalLM has no such tensor"));
  builder = Small();
  builder.tensors[1] = GgufBuilder().Tensor("output_norm.weight", {20}, 0, 3072).tensors[0];
  EXPECT_THAT(OpenError(builder, ErrorCode::kCorrupt),
              HasSubstr("output_norm.weight: shape [20], the metadata ask for [40]"));
  builder = Small();
  builder.keys[1] = GgufBuilder().String("llama.block_count", "2").keys[0];
  EXPECT_THAT(OpenError(builder, ErrorCode::kCorrupt),
              HasSubstr("llama.block_count: expected an integer in 1..10000, got \"2\""));
}

// Tensors of a type without a decoder are refused when the model is opened, not in the middle of
// a run.
TEST_F(GgufSource, UnreadableTypesAreRefusedAtOnce) {
  config_.hidden = 256;
  config_.head_dim = 64;
  GgufBuilder builder = Small();
  const std::string record =
      GgufBuilder().Tensor("output_norm.weight", {256}, 29, 19 * 256 * 4).tensors[0];
  builder.tensors[1] = record;
  EXPECT_THAT(OpenError(builder, ErrorCode::kUnsupported),
              HasSubstr("output_norm.weight: tensors of type IQ1_M are not supported"));
}

}  // namespace
}  // namespace fireq
