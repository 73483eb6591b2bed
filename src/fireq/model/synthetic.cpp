#include "fireq/model/synthetic.h"

#include <algorithm>

#include "fireq/model/share.h"

namespace fireq {
namespace {

struct Shapes {
  const char* name;
  int64_t layers, hidden, ffn, heads, kv_heads, head_dim, vocabulary, context;
  double theta;
};

// Source: config.json of the models of these names.
constexpr Shapes kShapes[] = {
    {"llama-3-8b", 32, 4096, 14336, 32, 8, 128, 128256, 8192, 500000.0},
    {"llama-2-7b", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 10000.0},
    {"llama-2-13b", 40, 5120, 13824, 40, 40, 128, 32000, 4096, 10000.0},
    {"llama-2-70b", 80, 8192, 28672, 64, 8, 128, 32000, 4096, 10000.0},
    {"tiny", 2, 256, 448, 4, 2, 64, 512, 1024, 10000.0},
};

// Every tensor has a seed of its own.
class RandomBlocks {
 public:
  RandomBlocks(Backend& backend, const ModelConfig& config, uint64_t seed, Share share)
      : backend_(backend),
        config_(config),
        next_seed_(seed << 32),
        of_rank_(static_cast<uint64_t>(share.rank) << 24) {}

  BlockWeights Block() {
    const ModelConfig& c = config_;
    BlockWeights block;
    block.attn_norm = Norm();
    block.qkv = Linear({c.q_rows(), c.kv_rows(), c.kv_rows()}, c.hidden);
    block.o = Linear({c.hidden}, c.q_rows());
    block.mlp_norm = Norm();
    block.gate_up = Linear({c.ffn, c.ffn}, c.hidden);
    block.down = Linear({c.hidden}, c.ffn);
    return block;
  }

  ModelWeights Whole(WeightForm lm_head) {
    ModelWeights weights;
    weights.embedding =
        backend_.RandomBf16({config_.vocab_size, config_.hidden}, 1.0f, next_seed_++);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) weights.blocks.push_back(Block());
    weights.final_norm = Norm();
    weights.lm_head = backend_.PrepareRandom({.part_rows = {config_.vocab_size},
                                              .k = config_.hidden,
                                              .form = lm_head,
                                              .seed = next_seed_++});
    return weights;
  }

 private:
  Tensor Norm() {
    const std::vector<float> ones(static_cast<size_t>(config_.hidden), 1.0f);
    return backend_.Upload(Tensor::FromVector(DType::kF32, {config_.hidden}, ones));
  }
  std::shared_ptr<const PreparedLinear> Linear(std::vector<int64_t> part_rows, int64_t k) {
    const bool gate_up = part_rows.size() == 2;
    return backend_.PrepareRandom({.part_rows = std::move(part_rows),
                                   .k = k,
                                   .gate_up = gate_up,
                                   .seed = next_seed_++ + of_rank_});
  }

  Backend& backend_;
  const ModelConfig& config_;
  uint64_t next_seed_;
  uint64_t of_rank_;  // tells the ranks' parts of a linear apart
};

}  // namespace

ModelConfig SyntheticConfig(const std::string& name) {
  const auto* found = std::find_if(std::begin(kShapes), std::end(kShapes),
                                   [&](const Shapes& shapes) { return name == shapes.name; });
  std::string names;
  for (const Shapes& shapes : kShapes) names += StrCat(" ", shapes.name);
  FIREQ_CHECK(found != std::end(kShapes), kNotFound, "no synthetic model \"", name, "\":", names);
  ModelConfig config;
  config.family = "llama";
  config.architecture = "LlamaForCausalLM";
  config.num_layers = found->layers;
  config.hidden = found->hidden;
  config.ffn = found->ffn;
  config.num_heads = found->heads;
  config.num_kv_heads = found->kv_heads;
  config.head_dim = found->head_dim;
  config.vocab_size = found->vocabulary;
  config.max_context = found->context;
  config.rope.theta = found->theta;
  return config;
}

Model MakeSyntheticModel(Backend& backend, const ModelConfig& config, WeightForm lm_head,
                         uint64_t seed, Share share) {
  Model model;
  model.config = ShareOf(config, share);
  model.quantized = true;
  model.quant.arithmetic = kFastArithmetic;
  model.weights = RandomBlocks(backend, model.config, seed, share).Whole(lm_head);
  return model;
}

}  // namespace fireq
