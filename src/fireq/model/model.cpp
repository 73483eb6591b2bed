#include "fireq/model/model.h"

#include "fireq/checkpoint/quantised_checkpoint.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/model/rope.h"
#include "fireq/model/share.h"

namespace fireq {
namespace {

// Where the tensors of a block come from: a float model or a checkpoint.
class TensorStore {
 public:
  virtual ~TensorStore() = default;
  virtual LinearPart LoadLinear(const std::string& linear) const = 0;
  virtual Tensor Load(const std::string& name) const = 0;  // as stored; finite
  virtual bool Has(const std::string& name) const = 0;
  Tensor LoadF32(const std::string& name) const { return ToF32(Load(name), name); }
};

class FloatStore : public TensorStore {
 public:
  explicit FloatStore(std::shared_ptr<const ModelSource> source) : source_(std::move(source)) {}
  LinearPart LoadLinear(const std::string& linear) const override {
    return {.name = linear, .weight = Load(linear + ".weight")};
  }
  Tensor Load(const std::string& name) const override {
    Tensor tensor = source_->Load(name);
    CheckFinite(tensor, name);
    return tensor;
  }
  bool Has(const std::string& name) const override { return source_->Has(name); }

 private:
  std::shared_ptr<const ModelSource> source_;
};

class QuantisedStore : public TensorStore {
 public:
  explicit QuantisedStore(std::shared_ptr<const QuantisedCheckpoint> checkpoint)
      : checkpoint_(std::move(checkpoint)) {}
  LinearPart LoadLinear(const std::string& linear) const override {
    if (checkpoint_->IsExcluded(linear))
      return {.name = linear, .weight = checkpoint_->Load(linear + ".weight")};
    return {.name = linear, .i4 = checkpoint_->LoadLinear(linear)};
  }
  Tensor Load(const std::string& name) const override { return checkpoint_->Load(name); }
  bool Has(const std::string& name) const override { return checkpoint_->Has(name); }

 private:
  std::shared_ptr<const QuantisedCheckpoint> checkpoint_;
};

class BlockLoader {
 public:
  BlockLoader(Backend& backend, const ModelConfig& config, const TensorStore& store,
              Share share = {})
      : backend_(backend), config_(config), store_(store), share_(share) {}

  BlockWeights Block(int64_t layer) const {
    BlockWeights block;
    block.attn_norm = Norm(LayerTensorName(layer, kInputNorm));
    block.qkv = Fused(layer, {Linear::kQ, Linear::kK, Linear::kV});
    block.q_norm = Optional(LayerTensorName(layer, kQNorm));
    block.k_norm = Optional(LayerTensorName(layer, kKNorm));
    block.crs_q = OfKvHeads(LayerTensorName(layer, kCrsQFactor));
    block.crs_k = OfKvHeads(LayerTensorName(layer, kCrsKFactor));
    block.key_shift = OfKvHeads(LayerTensorName(layer, kKeyShift));
    block.o = Fused(layer, {Linear::kO});
    block.mlp_norm = Norm(LayerTensorName(layer, kPostNorm));
    block.gate_up = Fused(layer, {Linear::kGate, Linear::kUp});
    block.down = Fused(layer, {Linear::kDown});
    return block;
  }

  ModelWeights Whole(const HeadMaker& make_head) const {
    ModelWeights weights = WithoutBlocks(make_head);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer)
      weights.blocks.push_back(Block(layer));
    return weights;
  }

  ModelWeights WithoutBlocks(const HeadMaker& make_head) const {
    ModelWeights weights;
    const Tensor embedding = store_.Load(kEmbeddingName);
    weights.embedding = backend_.Upload(embedding);
    weights.final_norm = Norm(kFinalNormName);
    LinearPart stored{.name = kLmHeadName,
                      .weight = config_.tied_embeddings ? embedding : store_.Load(kLmHeadName)};
    LinearSpec head;
    head.parts.push_back(make_head ? make_head(std::move(stored)) : std::move(stored));
    weights.lm_head = backend_.Prepare(std::move(head));
    return weights;
  }

 private:
  Tensor Norm(const std::string& name) const { return backend_.Upload(store_.LoadF32(name)); }
  Tensor Optional(const std::string& name) const {
    return store_.Has(name) ? Norm(name) : Tensor();
  }
  Tensor OfKvHeads(const std::string& name) const {
    return store_.Has(name) ? backend_.Upload(RowsOf(store_.LoadF32(name), share_)) : Tensor();
  }

  std::shared_ptr<const PreparedLinear> Fused(int64_t layer,
                                              std::initializer_list<Linear> linears) const {
    LinearSpec spec;
    for (const Linear linear : linears) {
      const std::string name = LinearName(layer, linear);
      LinearPart part = store_.LoadLinear(name);
      if (HasBias(config_, linear)) part.bias = store_.LoadF32(name + ".bias");
      const bool sums = linear == Linear::kO || linear == Linear::kDown;
      spec.parts.push_back(sums ? ColumnsOf(part, share_) : RowsOf(part, share_));
    }
    spec.gate_up = linears.size() == 2;
    return backend_.Prepare(std::move(spec));
  }

  Backend& backend_;
  const ModelConfig& config_;
  const TensorStore& store_;
  Share share_;
};

// The tensors at `path`, and in `model` what its files say of it.
std::shared_ptr<const TensorStore> OpenStore(const std::filesystem::path& path, Model& model) {
  if (DetectModelKind(path) == ModelKind::kFireqQuantised) {
    auto checkpoint = std::make_shared<const QuantisedCheckpoint>(path);
    model.config = checkpoint->config();
    model.quant = checkpoint->quant();
    model.quantized = true;
    return std::make_shared<QuantisedStore>(std::move(checkpoint));
  }
  auto source = ModelSource::Open(path);
  model.config = source->config();
  return std::make_shared<FloatStore>(std::move(source));
}

}  // namespace

Model LoadModel(Backend& backend, const std::filesystem::path& path, const HeadMaker& make_head,
                Share share) {
  Model model;
  const auto store = OpenStore(path, model);
  model.config = ShareOf(model.config, share);
  model.weights = BlockLoader(backend, model.config, *store, share).Whole(make_head);
  return model;
}

Model OpenModel(Backend& backend, const std::filesystem::path& path) {
  Model model;
  const auto store = OpenStore(path, model);
  model.weights = BlockLoader(backend, model.config, *store).WithoutBlocks({});
  model.weights.read_block = [&backend, store, config = model.config](int64_t layer) {
    return BlockLoader(backend, config, *store).Block(layer);
  };
  return model;
}

ForwardContext MakeContext(Backend& backend, const Model& model, int64_t max_context,
                           Products products) {
  const RopeTable rope = MakeRopeTable(model.config.rope, model.config.head_dim, max_context);
  ForwardContext context;
  context.backend = &backend;
  context.config = &model.config;
  context.arithmetic = model.quant.arithmetic;
  context.qk_hadamard = model.quant.qk_hadamard;
  context.products = products;
  context.ranks = model.ranks.get();
  context.rope_cos = backend.Upload(rope.cos);
  context.rope_sin = backend.Upload(rope.sin);
  return context;
}

}  // namespace fireq
