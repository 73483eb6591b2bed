#include "fireq/quant/stored_config.h"

#include <array>
#include <bit>

#include "fireq/checkpoint/schema.h"

namespace fireq::quant {
namespace {

// Linears that stay BF16: all of them where none become codes, else whole fused groups that
// `exclude` names.
std::vector<std::string> ExcludedLinears(const ModelConfig& config, const Recipe& recipe) {
  using Group = std::vector<fireq::Linear>;
  const std::array<Group, 4> groups = {
      Group{fireq::Linear::kQ, fireq::Linear::kK, fireq::Linear::kV}, Group{fireq::Linear::kO},
      Group{fireq::Linear::kGate, fireq::Linear::kUp}, Group{fireq::Linear::kDown}};
  const std::regex pattern = ExcludePattern(recipe.exclude);
  std::vector<std::string> out;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Group& group : groups) {
      bool named = !StoresCodes(recipe);
      for (const fireq::Linear linear : group)
        named = named ||
                (!recipe.exclude.empty() && std::regex_search(LinearName(layer, linear), pattern));
      if (!named) continue;
      for (const fireq::Linear linear : group) out.push_back(LinearName(layer, linear));
    }
  }
  return out;
}

}  // namespace

QuantConfig MakeQuantConfig(const ModelConfig& config, const Recipe& recipe) {
  const auto head_dim = static_cast<uint64_t>(config.head_dim);
  FIREQ_CHECK(!recipe.hadamard_qk || std::has_single_bit(head_dim), kUnsupported,
              "recipe: hadamard.qk = true needs a head dim that is a power of two, the model has ",
              config.head_dim, "; instead: --set hadamard.qk=false --set rpn=true --set crs=true");
  QuantConfig out;
  out.arithmetic = ArithmeticOf(recipe);
  out.crs = recipe.crs;
  out.key_shift = recipe.shift_k > 0.0;
  out.qk_hadamard = recipe.hadamard_qk;
  out.excluded = ExcludedLinears(config, recipe);
  out.recipe_json = ToJson(recipe).dump();
  return out;
}

}  // namespace fireq::quant
