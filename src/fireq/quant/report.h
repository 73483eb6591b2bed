// What quantising cost, tensor by tensor, as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fireq/quant/quantize_linear.h"

namespace fireq::quant {

struct LinearReport {
  std::string name;
  int64_t n = 0, k = 0;
  float t = 1.0f;
  LinearErrors errors;
};

// Largest magnitudes of K's channels after RoPE on the calibration text, [Hk, Dh].
struct KeyReport {
  int64_t layer = 0;
  std::vector<float> channel_max_before;  // of the float model
  std::vector<float> channel_max_after;   // as the cache sees them, with RPN, CRS or balancing
};

struct Report {
  nlohmann::json recipe;
  nlohmann::json choice;    // of recipe auto (api/choose_recipe.h), else null
  nlohmann::json held_out;  // what QuantizeJob::measure found, else null
  int64_t calibration_tokens = 0;
  double seconds = 0.0;
  std::vector<LinearReport> linears;
  std::vector<KeyReport> keys;  // one a layer; none if the recipe does not look at K
  std::vector<std::string> excluded;
};

// {"recipe":{...},"choice":{...} if there was one,"held_out":{...} if it was measured,
//  "calibration_tokens","seconds","excluded":[...],"mean":{errors},
//  "linears":[{"name","n","k","t",errors}],
//  "keys":[{"layer","channel_max_before":[...],"channel_max_after":[...]}]} with errors as in
//  LinearErrors: relative, dimensionless.
nlohmann::json ToJson(const Report& report);

// Its inverse. Errors: kCorrupt naming `place` if it is not such JSON.
Report ParseReport(const nlohmann::json& json, const std::string& place);

}  // namespace fireq::quant
