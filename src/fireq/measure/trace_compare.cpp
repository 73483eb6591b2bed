#include "fireq/measure/trace_compare.h"

#include <cmath>
#include <numeric>

#include "fireq/engine/scheduler.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"

namespace fireq {
namespace {

// Rows as floats; E4M3 codes with their scales applied (a row may have several of them).
std::vector<float> Values(Backend& backend, const ActTensor& tensor) {
  const Tensor host = backend.Download(tensor.values);
  const int64_t count = host.num_elements();
  std::vector<float> out(static_cast<size_t>(count));
  const Tensor scale = tensor.scale.defined() ? backend.Download(tensor.scale) : Tensor();
  const int64_t per_scale = scale.defined() ? count / scale.num_elements() : count;
  for (int64_t i = 0; i < count; ++i) {
    float value = 0.0f;
    if (host.dtype() == DType::kF32) value = host.as<float>()[i];
    if (host.dtype() == DType::kBF16) value = Bf16ToFloat(host.as<bf16_t>()[i]);
    if (host.dtype() == DType::kE4M3)
      value = E4M3ToFloat(host.as<e4m3_t>()[i]) * scale.as<float>()[i / per_scale];
    out[static_cast<size_t>(i)] = value;
  }
  return out;
}

struct NamedValues {
  int64_t layer;
  std::string name;
  std::vector<float> values;
};

class Collector final : public Tracer {
 public:
  explicit Collector(Backend& backend) : backend_(backend) {}
  void OnTensor(int64_t layer, std::string_view name, const ActTensor& tensor) override {
    tensors.push_back({layer, std::string(name), Values(backend_, tensor)});
  }
  std::vector<NamedValues> tensors;

 private:
  Backend& backend_;
};

double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = double{a[i]} - double{b[i]};
    error += difference * difference;
    norm += double{a[i]} * double{a[i]};
  }
  return std::sqrt(error / norm);
}

// One backend's half of the comparison.
class Side {
 public:
  Side(const ModelOn& on, std::span<const int32_t> ids, Products products)
      : model_(*on.model),
        backend_(*on.backend),
        trace_(backend_),
        context_(MakeContext(backend_, model_, static_cast<int64_t>(ids.size()), products)),
        buffers_(context_, static_cast<int64_t>(ids.size())),
        cache_(backend_, model_.config, model_.quant.arithmetic.kv, model_.config.num_layers,
               PagesFor(static_cast<int64_t>(ids.size()))) {
    context_.tracer = &trace_;
    std::vector<int32_t> pages(static_cast<size_t>(cache_.num_pages()));
    std::iota(pages.begin(), pages.end(), 0);
    const SequenceStep step{ids, 0, pages};
    batch_ = MakeBatch(backend_, {&step, 1});
    x_ = backend_.Allocate(context_.border(), {batch_.num_tokens, model_.config.hidden});
  }

  void Embed() {
    backend_.Embed({.ids = batch_.ids, .table = model_.weights.embedding, .out = x_});
    trace_.OnTensor(-1, "embed", {x_, {}, {}});
  }
  void Block(int64_t layer) {
    ForwardBlock(context_, buffers_, layer, model_.weights.blocks[static_cast<size_t>(layer)],
                 batch_, cache_.layers()[static_cast<size_t>(layer)], x_);
  }
  void Logits() { ForwardLogits(context_, model_.weights, x_); }

  int64_t num_layers() const { return model_.config.num_layers; }
  Tensor DownloadX() { return backend_.Download(x_); }
  void UploadX(const Tensor& host) { backend_.UploadTo(host, x_); }
  const std::vector<NamedValues>& tensors() const { return trace_.tensors; }

 private:
  const Model& model_;
  Backend& backend_;
  Collector trace_;
  ForwardContext context_;
  ForwardBuffers buffers_;
  KvCache cache_;
  BatchView batch_;
  Tensor x_;
};

}  // namespace

std::vector<TensorDifference> CompareTraces(const ModelOn& reference, const ModelOn& other,
                                            std::span<const int32_t> ids, Products products) {
  Side a(reference, ids, products);
  Side b(other, ids, products);
  a.Embed();
  b.Embed();
  for (int64_t layer = 0; layer < a.num_layers(); ++layer) {
    b.UploadX(a.DownloadX());
    a.Block(layer);
    b.Block(layer);
  }
  b.UploadX(a.DownloadX());
  a.Logits();
  b.Logits();
  std::vector<TensorDifference> out;
  FIREQ_CHECK(a.tensors().size() == b.tensors().size(), kInternal, a.tensors().size(), " and ",
              b.tensors().size(), " tensors in the traces of one forward");
  for (size_t i = 0; i < a.tensors().size(); ++i) {
    const NamedValues& tensor = a.tensors()[i];
    out.push_back({tensor.layer, tensor.name, RelativeError(tensor.values, b.tensors()[i].values)});
  }
  return out;
}

}  // namespace fireq
