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

struct Report {
  nlohmann::json recipe;
  int64_t calibration_tokens = 0;
  double seconds = 0.0;
  std::vector<LinearReport> linears;
  std::vector<std::string> excluded;
};

// {"recipe":{...},"calibration_tokens","seconds","excluded":[...],"mean":{errors},
//  "linears":[{"name","n","k","t",errors}]} with errors as in LinearErrors: relative,
//  dimensionless.
nlohmann::json ToJson(const Report& report);

}  // namespace fireq::quant
