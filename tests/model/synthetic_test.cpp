#include "fireq/model/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/engine/session.h"
#include "fireq/model/synthetic_source.h"

namespace fireq {
namespace {

TEST(Synthetic, TinyModelRunsAndItsLogitsSpread) {
  const auto backend = MakeCpuBackend({.num_threads = 1});
  const Model model = MakeSyntheticModel(*backend, SyntheticConfig("tiny"));
  Session session(*backend, model, {});
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 100; ++i) ids.push_back(i * 37 % 512);
  const Tensor logits = session.Append(ids);
  double squares = 0;
  for (int64_t i = 0; i < 512; ++i) squares += std::pow(logits.as<float>()[i], 2);
  const double spread = std::sqrt(squares / 512);
  EXPECT_GT(spread, 0.3);
  EXPECT_LT(spread, 3.0);
}

TEST(Synthetic, ConfigsHaveTheNumbersOfParametersOfTheirNames) {
  const auto billions = [](const std::string& name) {
    const ModelConfig c = SyntheticConfig(name);
    const int64_t block = c.hidden * (c.qkv_rows() + c.q_rows() + 3 * c.ffn);
    return static_cast<double>(c.num_layers * block + 2 * c.vocab_size * c.hidden) * 1e-9;
  };
  EXPECT_NEAR(billions("llama-3-8b"), 8.03, 0.01);
  EXPECT_NEAR(billions("llama-2-7b"), 6.74, 0.01);
  EXPECT_NEAR(billions("llama-2-13b"), 13.02, 0.01);
  EXPECT_NEAR(billions("llama-2-70b"), 68.98, 0.01);
  EXPECT_THROW(SyntheticConfig("llama-9"), Error);
}

TEST(Synthetic, SourceMakesEveryTensorOfTheFloatModel) {
  const auto source = MakeSyntheticSource("tiny"), again = MakeSyntheticSource("tiny");
  const auto other = MakeSyntheticSource("tiny", 1, 2);
  for (const NamedShape& tensor : FloatTensors(source->config())) {
    ASSERT_TRUE(source->Has(tensor.name));
    const Tensor values = source->LoadFiniteF32(tensor.name);
    ASSERT_EQ(values.shape(), tensor.shape);
    const Tensor same = again->LoadF32(tensor.name);
    double squares = 0.0;
    for (int64_t i = 0; i < values.num_elements(); ++i) {
      ASSERT_EQ(values.as<float>()[i], same.as<float>()[i]) << tensor.name;
      squares += std::pow(values.as<float>()[i], 2);
    }
    // Linears of unit gain: K columns of variance 1 / K.
    if (tensor.shape.size() == 2 && tensor.name != kEmbeddingName) {
      EXPECT_NEAR(squares / static_cast<double>(tensor.shape[0]), 1.0, 0.05) << tensor.name;
    }
    if (!other->Has(tensor.name)) continue;
    const Tensor unlike = other->LoadF32(tensor.name);
    EXPECT_NE(values.as<float>()[3], unlike.as<float>()[3]) << tensor.name;
  }
  EXPECT_EQ(other->config().num_layers, 1);
  EXPECT_FALSE(other->Has("model.layers.1.mlp.up_proj.weight"));
  EXPECT_THROW(MakeSyntheticSource("tiny", 3), Error);
  EXPECT_THROW(MakeSyntheticSource("llama-9"), Error);
  EXPECT_THROW(source->Load("model.layers.7.mlp.up_proj.weight"), Error);
}

}  // namespace
}  // namespace fireq
