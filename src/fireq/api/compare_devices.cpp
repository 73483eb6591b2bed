#include <algorithm>
#include <random>

#include "fireq/api/fireq.h"
#include "fireq/api/products.h"
#include "fireq/api/text_tools.h"
#include "fireq/api/wiring.h"
#include "fireq/measure/trace_compare.h"
#include "fireq/model/synthetic.h"

namespace fireq {
namespace {

Model LoadFor(Backend& backend, const CompareRequest& request) {
  if (request.model.empty()) return MakeSyntheticModel(backend, SyntheticConfig(request.synthetic));
  return LoadModel(backend, ResolveModel(request.model, request.runtime));
}

std::vector<int32_t> Ids(const CompareRequest& request, const ModelConfig& config) {
  const auto count = static_cast<size_t>(request.tokens);
  if (!request.text.empty()) {
    FIREQ_CHECK(!request.model.empty(), kInvalidArgument, "a synthetic model has no tokenizer");
    const TextTools tools = LoadTextTools(ResolveModel(request.model, request.runtime));
    std::vector<int32_t> ids = tools.tokenizer.Encode(request.text);
    ids.resize(std::min(ids.size(), count));
    return ids;
  }
  std::mt19937_64 rng(count);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng() % static_cast<uint64_t>(config.vocab_size));
  return ids;
}

}  // namespace

std::vector<TensorDistance> CompareDevices(const CompareRequest& request) {
  FIREQ_CHECK(request.model.empty() != request.synthetic.empty(), kInvalidArgument,
              "either a model or the name of a synthetic one");
  FIREQ_CHECK(request.tokens > 0, kInvalidArgument, request.tokens, " tokens");
  const auto cpu = MakeFloatBackend(request.runtime);
  const auto device = MakeBackend(request.runtime);
  const Model on_cpu = LoadFor(*cpu, request);
  const Model on_device = LoadFor(*device, request);
  std::vector<TensorDistance> out;
  for (TensorDifference& difference :
       CompareTraces({cpu.get(), &on_cpu}, {device.get(), &on_device}, Ids(request, on_cpu.config),
                     ToProducts(request.products)))
    out.push_back({difference.layer, std::move(difference.name), difference.relative_error,
                   difference.gain, difference.changed});
  return out;
}

}  // namespace fireq
