#include "fireq/api/lm_head.h"

#include <utility>

#include "fireq/checkpoint/model_source.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/quant/quantize_linear.h"

namespace fireq {
namespace {

LinearPart ToInt4(LinearPart stored, ThreadPool& pool) {
  const Tensor values = ToF32(stored.weight, stored.name);
  quant::FloatLinear<float> linear{.name = stored.name, .weight = {values.dim(0), values.dim(1)}};
  std::copy_n(values.as<float>(), values.num_elements(), linear.weight.data.begin());
  quant::Recipe recipe;
  recipe.weights_grid = quant::WeightGrid::kAsymmetric;
  recipe.weights_search = true;
  recipe.weights_t = true;
  // Logits are mostly those of a few rows, so decoding's products.
  recipe.weights_products = quant::ErrorProducts::kExact;
  // Without calibration every column counts the same.
  const quant::InputKnowledge input{
      std::vector<float>(static_cast<size_t>(linear.weight.cols), 1.0f)};
  stored.i4 = quant::QuantizeLinear(linear, input, recipe, pool);
  stored.weight = {};
  return stored;
}

}  // namespace

HeadMaker MakeHead(LmHead lm_head, const std::filesystem::path& model, int num_threads) {
  if (lm_head == LmHead::kAsStored) return {};
  FIREQ_CHECK(DetectModelKind(model) == ModelKind::kFireqQuantised, kInvalidArgument,
              "an INT4 lm_head of a float model: ", model.string());
  return [num_threads](LinearPart stored) {
    ThreadPool pool(num_threads);
    return ToInt4(std::move(stored), pool);
  };
}

}  // namespace fireq
