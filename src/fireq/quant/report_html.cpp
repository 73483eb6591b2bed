#include "fireq/quant/report_html.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <vector>

#include "fireq/base/error.h"
#include "fireq/base/html.h"
#include "fireq/base/number_text.h"
#include "fireq/quant/svg_plot.h"

namespace fireq::quant {
namespace {

using Json = nlohmann::json;

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>FireQ quantisation report</title>
<style>
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1c1c1a; --soft: #63635e; --grid: #e4e4df;
  --c0: #1f6fb4; --c1: #c8500a; --c2: #0b8a63; --c3: #a8478a; --c4: #8a6a00; --c5: #5a5ad0;
  --c6: #5f6368; }
@media (prefers-color-scheme: dark) { :root { --page: #161614; --ink: #ecece8; --soft: #a5a59e;
  --grid: #34342f; --c0: #6cb2ee; --c1: #ff9558; --c2: #45cf9f; --c3: #e88fcb; --c4: #e0bf45;
  --c5: #a3a3ff; --c6: #b4b8bd; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { color: var(--soft); max-width: 70ch; } figure { margin: 1rem 0; }
figcaption { color: var(--soft); font-size: 13px; } .key { margin-right: 1.1em; white-space: nowrap; }
.key svg { margin-right: .35em; } svg { max-width: 100%; } path { fill: none; stroke-width: 2; }
.grid { stroke: var(--grid); } .tick, .label { fill: var(--soft); font-size: 12px; }
.sparks { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: .6rem; }
.spark { margin: 0; } .spark path { stroke-width: 1.5; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
summary { cursor: pointer; }
path.s0, circle.s0 { stroke: var(--c0); } circle.s0 { fill: var(--c0); }
path.s1, circle.s1 { stroke: var(--c1); } circle.s1 { fill: var(--c1); }
path.s2, circle.s2 { stroke: var(--c2); } circle.s2 { fill: var(--c2); }
path.s3, circle.s3 { stroke: var(--c3); } circle.s3 { fill: var(--c3); }
path.s4, circle.s4 { stroke: var(--c4); } circle.s4 { fill: var(--c4); }
path.s5, circle.s5 { stroke: var(--c5); } circle.s5 { fill: var(--c5); }
path.s6, circle.s6 { stroke: var(--c6); } circle.s6 { fill: var(--c6); }
path.s4, path.s5, path.s6 { stroke-dasharray: 6 3; } circle { stroke: none; }
</style></head><body>
)";

struct ErrorKind {
  const char* key;
  const char* name;
};
constexpr ErrorKind kErrors[] = {{"output_error_table", "output, table product"},
                                 {"output_error_exact", "output, exact product"},
                                 {"weight_error_table", "weights, table product"},
                                 {"weight_error_exact", "weights, exact product"}};
constexpr std::array<const char*, 7> kKinds = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                               "gate_proj", "up_proj", "down_proj"};

struct Place {
  size_t layer;
  size_t kind;  // in kKinds
};

// Of "model.layers.12.self_attn.q_proj".
Place PlaceOf(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.";
  FIREQ_CHECK(name.starts_with(kPrefix), kInternal, "report of a linear named ", name);
  const size_t layer = std::stoul(name.substr(kPrefix.size()));
  const auto kind = std::find(kKinds.begin(), kKinds.end(), name.substr(name.rfind('.') + 1));
  FIREQ_CHECK(kind != kKinds.end(), kInternal, "report of a linear named ", name);
  return {layer, static_cast<size_t>(kind - kKinds.begin())};
}

// One line a kind of tensor over the layers; layers without one (excluded) are gaps.
std::vector<Series> ErrorsByLayer(const Json& linears, const char* key) {
  size_t layers = 0;
  for (const Json& linear : linears)
    layers = std::max(layers, PlaceOf(linear.at("name")).layer + 1);
  std::vector<Series> series;
  series.reserve(kKinds.size());
  for (const char* kind : kKinds)
    series.push_back({kind, std::vector<double>(layers, std::numeric_limits<double>::quiet_NaN())});
  for (const Json& linear : linears) {
    const Place place = PlaceOf(linear.at("name"));
    series[place.kind].values[place.layer] = linear.at(key).get<double>();
  }
  return series;
}

std::string Summary(const Json& report) {
  std::string out = "<h1>FireQ quantisation report</h1>\n<table>";
  const auto row = [&](std::string_view name, const std::string& value) {
    out += StrCat("<tr><td>", name, "</td><td>", EscapeHtml(value), "</td></tr>\n");
  };
  row("recipe", report.at("recipe").value("base", "?"));
  row("calibration tokens", report.at("calibration_tokens").dump());
  row("seconds", ShortNumber(report.at("seconds")));
  row("linear layers in INT4", std::to_string(report.at("linears").size()));
  row("linear layers left in BF16", std::to_string(report.at("excluded").size()));
  for (const ErrorKind& error : kErrors)
    row(StrCat("mean relative error, ", error.name), ShortNumber(report.at("mean").at(error.key)));
  return out + "</table>\n";
}

std::string ErrorSection(const Json& report) {
  const Json& linears = report.at("linears");
  if (linears.empty()) return "";
  return StrCat(
      "<h2>Error of each tensor by layer</h2>\n<p>Of what the layer puts out: the relative error "
      "of the weights, weighted by the energy of their inputs on the calibration text, with the "
      "product that long prompts use (<i>table</i>).</p>\n",
      LineChart({"Output error by layer and tensor", "layer", "relative output error"},
                ErrorsByLayer(linears, "output_error_table")),
      "<p>Of the weights alone.</p>\n",
      LineChart({"Weight error by layer and tensor", "layer", "relative weight error"},
                ErrorsByLayer(linears, "weight_error_table")));
}

std::vector<double> Descending(const Json& values) {
  std::vector<double> out = values;
  std::sort(out.rbegin(), out.rend());
  return out;
}

// How far the largest channel stands out: its maximum over the median channel's.
double OutlierRatio(const std::vector<double>& descending) {
  const double median = descending[descending.size() / 2];
  return median > 0.0 ? descending.front() / median : std::numeric_limits<double>::quiet_NaN();
}

std::string KeySection(const Json& report) {
  const Json& keys = report.at("keys");
  if (keys.empty()) return "";
  std::vector<Series> ratios{{"before", {}}, {"after", {}}};
  std::string sparks;
  for (const Json& layer : keys) {
    std::vector<Series> sorted{{"before", Descending(layer.at("channel_max_before"))},
                               {"after", Descending(layer.at("channel_max_after"))}};
    for (size_t i = 0; i < 2; ++i) ratios[i].values.push_back(OutlierRatio(sorted[i].values));
    const double top = std::max(sorted[0].values.front(), sorted[1].values.front());
    sparks += SparkChart(StrCat("layer ", layer.at("layer").get<int64_t>()), sorted,
                         top > 0.0 ? top : 1.0);
  }
  return StrCat(
      "<h2>Channels of K</h2>\n<p>The largest magnitude of each channel of K after RoPE on the "
      "calibration text, before and after the folds of the recipe (RPN, CRS or balancing). INT4 "
      "spends its sixteen values on the largest channel: the less it stands out, the better. Shown "
      "is its magnitude over that of the median channel.</p>\n",
      LineChart({"Outlier ratio of K by layer", "layer", "largest / median channel"}, ratios),
      "<p>All channels of a layer, largest first; each picture from 0 to its own largest.</p>\n"
      "<div class=\"sparks\">",
      sparks, "</div>\n");
}

std::string TableSection(const Json& report) {
  std::string out =
      "<h2>All tensors</h2>\n<details><summary>Table of every linear layer</summary>"
      "<div class=\"scroll\"><table><tr><th>tensor</th><th>rows</th><th>columns</th><th>t</th>";
  for (const ErrorKind& error : kErrors) out += StrCat("<th>", error.name, "</th>");
  out += "</tr>\n";
  for (const Json& linear : report.at("linears")) {
    out += StrCat("<tr><td>", EscapeHtml(linear.at("name").get<std::string>()), "</td>");
    for (const char* key : {"n", "k", "t"})
      out += StrCat("<td>", EscapeHtml(linear.at(key).dump()), "</td>");
    for (const ErrorKind& error : kErrors)
      out += StrCat("<td>", ShortNumber(linear.at(error.key)), "</td>");
    out += "</tr>\n";
  }
  return out + "</table></div></details>\n";
}

std::string RecipeSection(const Json& report) {
  std::string out = "<h2>Recipe</h2>\n<div class=\"scroll\"><table>";
  for (const auto& [key, value] : report.at("recipe").items())
    out +=
        StrCat("<tr><td>", EscapeHtml(key), "</td><td>", EscapeHtml(value.dump()), "</td></tr>\n");
  return out + "</table></div>\n";
}

std::string FourDigits(double value) { return FixedText(value, 4); }

// Why recipe auto chose what it chose; nothing for a recipe that was asked for.
std::string ChoiceSection(const Json& report) {
  if (!report.contains("choice")) return "";
  const Json& choice = report.at("choice");
  std::string out = StrCat("<h2>Choice of the recipe</h2>\n<p>KL(float, quantised) on ",
                           choice.at("held_out_tokens").dump(),
                           " tokens that the trials were not calibrated on. Chosen: ",
                           EscapeHtml(choice.value("chosen", "")), ".</p>\n<table><tr><th></th>",
                           "<th>table</th><th>exact</th></tr>\n");
  for (const Json& candidate : choice.at("candidates")) {
    out += StrCat("<tr><td>", EscapeHtml(candidate.at("name").get<std::string>()), "</td>");
    for (const char* key : {"kl_table", "kl_exact"})
      out += StrCat("<td>", candidate.contains(key) ? FourDigits(candidate.at(key)) : "refused",
                    "</td>");
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

// What the model lost, on text that calibration did not see.
std::string HeldOutSection(const Json& report) {
  if (!report.contains("held_out")) return "";
  const Json& held_out = report.at("held_out");
  std::string out = StrCat(
      "<h2>Perplexity and KL</h2>\n<p>On ", held_out.at("tokens").dump(),
      " tokens of the calibration text that are behind those calibrated on, in windows of ",
      held_out.at("context").dump(),
      ", with standard errors. <i>table</i> is the product that long prompts use, <i>exact</i> the "
      "one that decoding uses; KL(float, quantised) is in nats a token, top-1 the share of tokens "
      "with the same first choice.</p>\n<table><tr><th></th><th>perplexity</th><th>KL</th>"
      "<th>KL, 99th percentile</th><th>top-1</th></tr>\n");
  const auto with_error = [](const Json& values, const char* name, const char* error) {
    return StrCat("<td>", FourDigits(values.at(name)), " &plusmn; ", FourDigits(values.at(error)),
                  "</td>");
  };
  out += StrCat("<tr><td>float</td>",
                with_error(held_out.at("float"), "perplexity", "perplexity_stderr"),
                "<td></td><td></td><td></td></tr>\n");
  std::vector<Series> along;
  for (const char* products : {"table", "exact"}) {
    const Json& values = held_out.at(products);
    out +=
        StrCat("<tr><td>", products, "</td>", with_error(values, "perplexity", "perplexity_stderr"),
               with_error(values, "kl_mean", "kl_stderr"), "<td>", FourDigits(values.at("kl_p99")),
               "</td>", with_error(values, "top1_agreement", "top1_stderr"), "</tr>\n");
    along.push_back({products, values.at("kl_along_window")});
  }
  return StrCat(out, "</table>\n",
                LineChart({"KL along the window", "sixteenth of the window", "mean KL"}, along));
}

}  // namespace

std::string ReportHtml(const Json& report) {
  return StrCat(kHead, Summary(report), HeldOutSection(report), ErrorSection(report),
                KeySection(report), ChoiceSection(report), RecipeSection(report),
                TableSection(report), "</body></html>\n");
}

}  // namespace fireq::quant
