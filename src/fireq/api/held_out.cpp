#include "fireq/api/held_out.h"

#include <array>

namespace fireq {
namespace {

nlohmann::json WithDistance(const PerplexityResult& result) {
  const PerplexityResult::Distance& distance = *result.distance;
  return {{"perplexity", result.perplexity},     {"perplexity_stderr", result.perplexity_stderr},
          {"kl_mean", distance.kl_mean},         {"kl_stderr", distance.kl_stderr},
          {"kl_p99", distance.kl_p99},           {"top1_agreement", distance.top1_agreement},
          {"top1_stderr", distance.top1_stderr}, {"kl_along_window", distance.kl_along_window}};
}

}  // namespace

HeldOutResult MeasureHeldOut(Backend& backend, const Model& quantised, const Model& reference,
                             std::span<const int32_t> ids, int64_t context, int num_threads) {
  PerplexityOptions options;
  options.context = context;
  options.num_threads = num_threads;
  constexpr std::array kBoth = {Products::kTable, Products::kExact};
  const auto results =
      EvaluatePerplexity({&backend, &quantised}, ids, options, {&backend, &reference}, kBoth);
  return {results[0], results[1]};
}

nlohmann::json ToJson(const HeldOutResult& result, int64_t context) {
  const PerplexityResult::Distance& distance = *result.table.distance;
  return {{"tokens", result.table.tokens},
          {"context", context},
          {"float",
           {{"perplexity", distance.reference_perplexity},
            {"perplexity_stderr", distance.reference_perplexity_stderr}}},
          {"table", WithDistance(result.table)},
          {"exact", WithDistance(result.exact)}};
}

}  // namespace fireq
