#include "fireq/model/synthetic_source.h"

#include <cmath>
#include <map>

#include "fireq/base/thread_pool.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/formats/random_weight.h"
#include "fireq/model/synthetic.h"

namespace fireq {
namespace {

constexpr float kNormSpread = 0.2f;

ModelConfig ConfigOf(const std::string& name, int64_t layers) {
  ModelConfig config = SyntheticConfig(name);
  FIREQ_CHECK(layers >= 0 && layers <= config.num_layers, kInvalidArgument, layers, " layers of ",
              name, ", which has ", config.num_layers);
  if (layers > 0) config.num_layers = layers;
  return config;
}

class SyntheticSource final : public ModelSource {
 public:
  SyntheticSource(const std::string& name, int64_t layers, uint64_t seed)
      : ModelSource("synthetic " + name, ConfigOf(name, layers)), seed_(seed << 32) {
    for (NamedShape& tensor : FloatTensors(config())) {
      const uint64_t number = tensors_.size();
      tensors_.emplace(std::move(tensor.name), Made{std::move(tensor.shape), number});
    }
  }

  bool Has(const std::string& name) const override { return tensors_.contains(name); }
  std::vector<std::filesystem::path> WeightFiles() const override { return {}; }

  Tensor Load(const std::string& name) const override {
    const auto found = tensors_.find(name);
    FIREQ_CHECK(found != tensors_.end(), kNotFound, path().string(), ": no tensor ", name);
    const auto& [shape, number] = found->second;
    const bool norm = shape.size() == 1;
    const float spread = norm                     ? kNormSpread
                         : name == kEmbeddingName ? 1.0f
                                                  : 1.0f / std::sqrt(static_cast<float>(shape[1]));
    Tensor out = Tensor::Empty(DType::kBF16, shape);
    ThreadPool pool;
    pool.ParallelFor(out.num_elements(), 1 << 16, [&](int64_t begin, int64_t end, int) {
      bf16_t* values = out.as<bf16_t>();
      for (int64_t i = begin; i < end; ++i) {
        values[i] = RandomBf16Of(seed_ + number, i, spread);
        if (norm) values[i] = FloatToBf16(1.0f + Bf16ToFloat(values[i]));
      }
    });
    return out;
  }

 private:
  struct Made {
    Shape shape;
    uint64_t number;  // makes the tensor's seed its own
  };

  uint64_t seed_;
  std::map<std::string, Made> tensors_;
};

}  // namespace

std::shared_ptr<const ModelSource> MakeSyntheticSource(const std::string& name, int64_t layers,
                                                       uint64_t seed) {
  return std::make_shared<const SyntheticSource>(name, layers, seed);
}

}  // namespace fireq
