// The quantiser's report as a page that a person reads.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace fireq::quant {

// One HTML page of what ToJson(Report) says, complete in itself: SVG plots, no scripts, nothing
// from a network, light or dark as the reader's system is. Sections whose data the report lacks
// (K's channels of a recipe that never looked at them) are left out.
std::string ReportHtml(const nlohmann::json& report);

}  // namespace fireq::quant
