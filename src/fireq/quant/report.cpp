#include "fireq/quant/report.h"

namespace fireq::quant {
namespace {

void Put(nlohmann::json& out, const LinearErrors& errors) {
  out["weight_error_table"] = errors.weight_table;
  out["weight_error_exact"] = errors.weight_exact;
  out["output_error_table"] = errors.output_table;
  out["output_error_exact"] = errors.output_exact;
}

}  // namespace

nlohmann::json ToJson(const Report& report) {
  nlohmann::json out;
  out["recipe"] = report.recipe;
  out["calibration_tokens"] = report.calibration_tokens;
  out["seconds"] = report.seconds;
  out["excluded"] = report.excluded;
  out["linears"] = nlohmann::json::array();
  LinearErrors mean;
  const double count = static_cast<double>(report.linears.size());
  for (const LinearReport& linear : report.linears) {
    nlohmann::json entry{{"name", linear.name}, {"n", linear.n}, {"k", linear.k}, {"t", linear.t}};
    Put(entry, linear.errors);
    out["linears"].push_back(std::move(entry));
    mean.weight_table += linear.errors.weight_table / count;
    mean.weight_exact += linear.errors.weight_exact / count;
    mean.output_table += linear.errors.output_table / count;
    mean.output_exact += linear.errors.output_exact / count;
  }
  out["keys"] = nlohmann::json::array();
  for (const KeyReport& keys : report.keys)
    out["keys"].push_back({{"layer", keys.layer},
                           {"channel_max_before", keys.channel_max_before},
                           {"channel_max_after", keys.channel_max_after}});
  out["mean"] = nlohmann::json::object();
  Put(out["mean"], mean);
  return out;
}

}  // namespace fireq::quant
