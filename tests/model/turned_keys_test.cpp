// Which of a block's small tensors acts on Q and which on K: the products of both would not tell.
#include <gtest/gtest.h>

#include <numeric>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"
#include "tests/support/tiny_quantized.h"

namespace fireq::test {
namespace {

constexpr int64_t kTokens = 5;

// The query of the first block by its scales, and its first key's.
class FirstBlock final : public Tracer {
 public:
  explicit FirstBlock(const KvLayer& kv) : kv_(kv) {}
  void OnTensor(int64_t layer, std::string_view name, const ActTensor& tensor) override {
    if (layer != 0 || name != "query") return;
    const float* scale = tensor.scale.as<float>();
    query_scales.assign(scale, scale + tensor.scale.num_elements());
    const KvScale s = GetKvScale(kv_.pages.as<uint8_t>(), kv_.layout.k_scale_offset(),
                                 kv_.layout.k_zero_offset(), 0);
    key_scale = Bf16ToFloat(s.scale);
  }
  std::vector<float> query_scales;
  float key_scale = 0.0f;

 private:
  const KvLayer& kv_;
};

TEST(TurnedKeys, FactorsOfQueryAndKeyAreNotExchanged) {
  const auto backend = MakeCpuBackend({.num_threads = 1});
  Model model = RandomQuantisedModel(*backend, TiniestConfig(), 3);
  const ModelConfig& config = model.config;
  const auto constant = [&](float value) {
    return Tensor::FromVector(
        DType::kF32, {config.num_kv_heads, config.head_dim},
        std::vector<float>(static_cast<size_t>(config.num_kv_heads * config.head_dim), value));
  };
  const auto run = [&](float query_factor, float key_factor) {
    model.weights.blocks[0].crs_q = constant(query_factor);
    model.weights.blocks[0].crs_k = constant(key_factor);
    ForwardContext context = MakeContext(*backend, model, 64, Products::kTable);
    ForwardBuffers buffers(context, kTokens);
    const KvCache cache(*backend, config, model.quant.arithmetic.kv, config.num_layers, 1);
    FirstBlock seen(cache.layers()[0]);
    context.tracer = &seen;
    std::vector<int32_t> ids(kTokens);
    std::iota(ids.begin(), ids.end(), 7);
    const std::vector<int32_t> pages = {0};
    const SequenceStep step{ids, 0, pages};
    ForwardHidden(context, buffers, model.weights, MakeBatch(*backend, {&step, 1}), cache.layers());
    return seen;
  };
  const FirstBlock plain = run(1.0f, 1.0f), query = run(2.0f, 1.0f), key = run(1.0f, 4.0f);
  ASSERT_EQ(plain.query_scales.size(), static_cast<size_t>(kTokens * config.num_heads));
  EXPECT_EQ(key.query_scales, plain.query_scales);
  EXPECT_EQ(query.key_scale, plain.key_scale);
  EXPECT_EQ(key.key_scale, 4.0f * plain.key_scale);
  for (size_t i = 0; i < plain.query_scales.size(); ++i)
    EXPECT_EQ(query.query_scales[i], 2.0f * plain.query_scales[i]);
}

}  // namespace
}  // namespace fireq::test
