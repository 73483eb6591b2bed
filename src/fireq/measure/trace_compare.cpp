#include "fireq/measure/trace_compare.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "fireq/engine/scheduler.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"

namespace fireq {
namespace {

// What a tracer saw, in the host's memory.
struct Recorded {
  int64_t layer;
  std::string name;
  ActTensor raw;
  std::vector<float> values;
};

// Rows as floats; codes with their scales applied (a row may have several of them).
std::vector<float> Values(const ActTensor& host) {
  const Tensor& codes = host.values;
  const int64_t count = codes.num_elements();
  std::vector<float> out(static_cast<size_t>(count));
  const int64_t per_scale = host.scale.defined() ? count / host.scale.num_elements() : count;
  for (int64_t i = 0; i < count; ++i) {
    float value = 0.0f;
    if (codes.dtype() == DType::kF32) value = codes.as<float>()[i];
    if (codes.dtype() == DType::kBF16) value = Bf16ToFloat(codes.as<bf16_t>()[i]);
    if (codes.dtype() == DType::kE4M3)
      value = E4M3ToFloat(codes.as<e4m3_t>()[i]) * host.scale.as<float>()[i / per_scale];
    if (codes.dtype() == DType::kI8)
      value = codes.as<int8_t>()[i] * host.scale.as<float>()[i / per_scale];
    out[static_cast<size_t>(i)] = value;
  }
  return out;
}

TensorDifference Difference(const Recorded& reference, const Recorded& other) {
  double error = 0.0, norm = 0.0, product = 0.0, changed = 0.0;
  for (size_t i = 0; i < reference.values.size(); ++i) {
    const double a = reference.values[i], b = other.values[i];
    error += (a - b) * (a - b);
    norm += a * a;
    product += a * b;
    changed += a != b ? 1.0 : 0.0;
  }
  // A tensor of zeros that is zero on both sides differs by nothing.
  if (error == 0.0) return {reference.layer, reference.name};
  return {reference.layer, reference.name, std::sqrt(error / norm), product / norm - 1.0,
          changed / static_cast<double>(reference.values.size())};
}

// Records a pass; with a leader, every tensor of the pass goes on as the leader's pass had it.
class Collector final : public Tracer {
 public:
  Collector(Backend& backend, const std::vector<KvLayer>& kv, const Collector* leader)
      : backend_(backend), kv_(kv), leader_(leader) {}

  void OnTensor(int64_t layer, std::string_view name, const ActTensor& tensor) override {
    Record(layer, name, tensor);
    if (name == "query") RecordCache(layer);
  }
  const std::vector<Recorded>& tensors() const { return tensors_; }
  void SetTokens(int64_t tokens) { tokens_ = tokens; }

 private:
  // A copy also where the backend's memory is the host's.
  Tensor Download(const Tensor& tensor) const {
    if (!tensor.defined()) return {};
    const Tensor host = backend_.Download(tensor);
    Tensor out = Tensor::Empty(host.dtype(), host.shape());
    std::memcpy(out.data(), host.data(), static_cast<size_t>(host.size_bytes()));
    return out;
  }
  void Follow(const Tensor& from, const Tensor& to) {
    if (to.defined()) backend_.UploadTo(from, to);
  }

  void Record(int64_t layer, std::string_view name, const ActTensor& tensor) {
    const ActTensor host{Download(tensor.values), Download(tensor.scale), Download(tensor.sums)};
    tensors_.push_back({layer, std::string(name), host, Values(host)});
    if (leader_ == nullptr) return;
    const ActTensor& led = leader_->tensors_.at(tensors_.size() - 1).raw;
    Follow(led.values, tensor.values);
    Follow(led.scale, tensor.scale);
    Follow(led.sums, tensor.sums);
  }

  // K and V of the one sequence, whose pages are in order.
  void RecordCache(int64_t layer) {
    const KvLayer& kv = kv_[static_cast<size_t>(layer)];
    const KvPageHost pages(kv.layout);
    const Tensor host = Download(kv.pages);
    const int64_t heads = kv.layout.kv_heads, dim = kv.layout.head_dim;
    Recorded keys{layer, "keys", {host, {}, {}}, {}}, values{layer, "values", {host, {}, {}}, {}};
    keys.values.resize(static_cast<size_t>(tokens_ * heads * dim));
    values.values.resize(keys.values.size());
    for (int64_t at = 0; at < tokens_ * heads; ++at) {
      const int64_t token = at / heads;
      const uint8_t* page = host.as<uint8_t>() + token / kTokensPerPage * kv.layout.page_bytes();
      const int head = static_cast<int>(at % heads),
                slot = static_cast<int>(token % kTokensPerPage);
      pages.LoadK(page, head, slot, keys.values.data() + at * dim);
      pages.LoadV(page, head, slot, values.values.data() + at * dim);
    }
    tensors_.push_back(std::move(keys));
    tensors_.push_back(std::move(values));
    if (leader_ != nullptr) Follow(leader_->tensors_.at(tensors_.size() - 1).raw.values, kv.pages);
  }

  Backend& backend_;
  const std::vector<KvLayer>& kv_;
  const Collector* leader_;
  int64_t tokens_ = 0;
  std::vector<Recorded> tensors_;
};

// One backend's half of the comparison.
class Side {
 public:
  Side(const ModelOn& on, std::span<const int32_t> ids, Products products, const Side* leader)
      : model_(*on.model),
        backend_(*on.backend),
        context_(MakeContext(backend_, model_, static_cast<int64_t>(ids.size()), products)),
        buffers_(context_, static_cast<int64_t>(ids.size())),
        cache_(backend_, model_.config, model_.quant.arithmetic.kv, model_.config.num_layers,
               PagesFor(static_cast<int64_t>(ids.size()))),
        trace_(backend_, cache_.layers(), leader == nullptr ? nullptr : &leader->trace_) {
    context_.tracer = &trace_;
    trace_.SetTokens(static_cast<int64_t>(ids.size()));
    std::vector<int32_t> pages(static_cast<size_t>(cache_.num_pages()));
    std::iota(pages.begin(), pages.end(), 0);
    const SequenceStep step{ids, 0, pages};
    batch_ = MakeBatch(backend_, {&step, 1});
  }

  void Run() {
    const Tensor x = ForwardHidden(context_, buffers_, model_.weights, batch_, cache_.layers());
    ForwardLogits(context_, model_.weights, x);
  }
  const std::vector<Recorded>& tensors() const { return trace_.tensors(); }

 private:
  const Model& model_;
  Backend& backend_;
  ForwardContext context_;
  ForwardBuffers buffers_;
  KvCache cache_;
  Collector trace_;
  BatchView batch_;
};

}  // namespace

std::vector<TensorDifference> CompareTraces(const ModelOn& reference, const ModelOn& other,
                                            std::span<const int32_t> ids, Products products) {
  Side a(reference, ids, products, nullptr);
  Side b(other, ids, products, &a);
  a.Run();
  b.Run();
  FIREQ_CHECK(a.tensors().size() == b.tensors().size(), kInternal, a.tensors().size(), " and ",
              b.tensors().size(), " tensors in the traces of one forward");
  std::vector<TensorDifference> out;
  for (size_t i = 0; i < a.tensors().size(); ++i)
    out.push_back(Difference(a.tensors()[i], b.tensors()[i]));
  return out;
}

}  // namespace fireq
