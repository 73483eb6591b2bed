#include "tests/support/tiny_quantized.h"

#include <random>

#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"
#include "fireq/formats/int4.h"

namespace fireq::test {
namespace {

class RandomWeightSource {
 public:
  RandomWeightSource(Backend& backend, uint64_t seed) : backend_(backend), rng_(seed) {}

  Tensor Bf16(Shape shape, float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<bf16_t> values(static_cast<size_t>(NumElements(shape)));
    for (bf16_t& v : values) v = FloatToBf16(normal(rng_));
    return Tensor::FromVector(DType::kBF16, std::move(shape), values);
  }

  Tensor Norm(int64_t n) {
    std::normal_distribution<float> normal(1.0f, 0.2f);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = normal(rng_);
    return backend_.Upload(Tensor::FromVector(DType::kF32, {n}, values));
  }

  LinearPart Quantised(int64_t n, int64_t k) {
    const WeightI4Layout layout{n, k};
    LinearPart part{.name = "random"};
    part.i4.codes = Bytes({n, layout.code_bytes_per_row()}, 0, 255);
    part.i4.scale =
        Bytes({n, layout.groups()}, FloatToE4M3(0.5f), FloatToE4M3(2.0f)).WithDType(DType::kE4M3);
    part.i4.zero = Bytes({n, layout.groups()}, 6, 9);
    part.i4.t = 16.0f;
    part.i4.n = n;
    part.i4.k = k;
    return part;
  }

  std::shared_ptr<const PreparedLinear> Linear(std::vector<LinearPart> parts, bool gate_up) {
    return backend_.Prepare({std::move(parts), gate_up});
  }

 private:
  Tensor Bytes(Shape shape, int low, int high) {
    std::vector<uint8_t> values(static_cast<size_t>(NumElements(shape)));
    for (uint8_t& v : values)
      v = static_cast<uint8_t>(low +
                               static_cast<int>(rng_() % static_cast<uint64_t>(high - low + 1)));
    return Tensor::FromVector(DType::kU8, std::move(shape), values);
  }

  Backend& backend_;
  std::mt19937_64 rng_;
};

}  // namespace

ModelConfig TiniestConfig() {
  ModelConfig c;
  c.family = "llama";
  c.architecture = "LlamaForCausalLM";
  c.num_layers = 2;
  c.hidden = 32;
  c.ffn = 48;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 8;
  c.vocab_size = 61;
  c.max_context = 512;
  return c;
}

Model RandomQuantisedModel(Backend& backend, const ModelConfig& config, uint64_t seed) {
  RandomWeightSource random(backend, seed);
  Model model;
  model.config = config;
  model.quantized = true;
  model.quant.arithmetic = kFastArithmetic;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    BlockWeights block;
    block.attn_norm = random.Norm(config.hidden);
    block.qkv = random.Linear({random.Quantised(config.q_rows(), config.hidden),
                               random.Quantised(config.kv_rows(), config.hidden),
                               random.Quantised(config.kv_rows(), config.hidden)},
                              false);
    block.o = random.Linear({random.Quantised(config.hidden, config.q_rows())}, false);
    block.mlp_norm = random.Norm(config.hidden);
    block.gate_up = random.Linear(
        {random.Quantised(config.ffn, config.hidden), random.Quantised(config.ffn, config.hidden)},
        true);
    block.down = random.Linear({random.Quantised(config.hidden, config.ffn)}, false);
    model.weights.blocks.push_back(std::move(block));
  }
  model.weights.embedding = backend.Upload(random.Bf16({config.vocab_size, config.hidden}, 1.0f));
  model.weights.final_norm = random.Norm(config.hidden);
  LinearPart lm_head{.name = "lm_head"};
  lm_head.weight = random.Bf16({config.vocab_size, config.hidden}, 0.3f);
  model.weights.lm_head = random.Linear({std::move(lm_head)}, false);
  return model;
}

}  // namespace fireq::test
