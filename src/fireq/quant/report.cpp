#include "fireq/quant/report.h"

#include "fireq/base/error.h"

namespace fireq::quant {
namespace {

void Put(nlohmann::json& out, const LinearErrors& errors) {
  out["weight_error_table"] = errors.weight_table;
  out["weight_error_exact"] = errors.weight_exact;
  out["output_error_table"] = errors.output_table;
  out["output_error_exact"] = errors.output_exact;
}

LinearErrors ParseErrors(const nlohmann::json& json) {
  return {.weight_table = json.at("weight_error_table"),
          .weight_exact = json.at("weight_error_exact"),
          .output_table = json.at("output_error_table"),
          .output_exact = json.at("output_error_exact")};
}

}  // namespace

Report ParseReport(const nlohmann::json& json, const std::string& place) {
  try {
    Report report;
    report.recipe = json.at("recipe");
    report.calibration_tokens = json.at("calibration_tokens");
    report.seconds = json.at("seconds");
    report.excluded = json.at("excluded");
    for (const nlohmann::json& linear : json.at("linears"))
      report.linears.push_back(
          {linear.at("name"), linear.at("n"), linear.at("k"), linear.at("t"), ParseErrors(linear)});
    for (const nlohmann::json& keys : json.at("keys"))
      report.keys.push_back(
          {keys.at("layer"), keys.at("channel_max_before"), keys.at("channel_max_after")});
    return report;
  } catch (const nlohmann::json::exception& e) {
    Throw(ErrorCode::kCorrupt, StrCat(place, ": not a report: ", e.what()));
  }
}

nlohmann::json ToJson(const Report& report) {
  nlohmann::json out;
  out["recipe"] = report.recipe;
  if (!report.choice.is_null()) out["choice"] = report.choice;
  if (!report.held_out.is_null()) out["held_out"] = report.held_out;
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
