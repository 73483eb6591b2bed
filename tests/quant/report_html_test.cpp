// The report's page: complete without a network, true to the report, safe with strange names.
#include "fireq/quant/report_html.h"

#include <gmock/gmock.h>

#include <cmath>

#include "fireq/quant/report.h"
#include "fireq/quant/svg_plot.h"

namespace fireq::quant {
namespace {

using testing::HasSubstr;
using testing::Not;

Report SmallReport() {
  Report report;
  report.recipe = {{"base", "fireq"}, {"exclude", "<b>'\"&"}};
  report.calibration_tokens = 4096;
  report.seconds = 12.5;
  for (const char* name : {"model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj"})
    report.linears.push_back({name, 64, 96, 2.0f, {0.11, 0.12, 0.13, 0.14}});
  report.linears.push_back({"model.layers.1.mlp.down_proj", 8, 9, 1.0f, {0.5, 0.5, 0.5, 0.5}});
  report.excluded = {"model.layers.1.self_attn.q_proj"};
  report.keys.push_back({0, {1, 1, 8, 1}, {1, 1, 2, 1}});
  return report;
}

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(ReportHtml, IsCompleteInItself) {
  const std::string page = ReportHtml(ToJson(SmallReport()));
  EXPECT_THAT(page, testing::StartsWith("<!doctype html>"));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  for (const char* outside : {"http:", "https:", "src=", "url(", "@import", "<script", "<link"})
    EXPECT_THAT(page, Not(HasSubstr(outside)));
  for (const char* tag : {"svg", "figure", "table", "tr", "td", "details", "div", "text", "h2"})
    EXPECT_EQ(Count(page, std::string("<") + tag + ">") + Count(page, std::string("<") + tag + " "),
              Count(page, std::string("</") + tag + ">"))
        << tag;
}

TEST(ReportHtml, ShowsWhatTheReportSays) {
  const std::string page = ReportHtml(ToJson(SmallReport()));
  EXPECT_THAT(page, HasSubstr("q_proj, layer 2: 0.13</title>"));  // output error, table
  EXPECT_THAT(page, HasSubstr("q_proj, layer 2: 0.11</title>"));  // weight error, table
  EXPECT_THAT(page, Not(HasSubstr("q_proj, layer 1:")));          // a gap
  EXPECT_THAT(page, HasSubstr("before, layer 0: 8</title>"));     // 8 over the median 1
  EXPECT_THAT(page, HasSubstr("after, layer 0: 2</title>"));
  EXPECT_THAT(page, HasSubstr("<td>model.layers.1.mlp.down_proj</td><td>8</td><td>9</td>"));
  EXPECT_THAT(page, HasSubstr("<td>calibration tokens</td><td>4096</td>"));
}

TEST(ReportHtml, SaysWhyAutoChose) {
  Report report = SmallReport();
  EXPECT_THAT(ReportHtml(ToJson(report)), Not(HasSubstr("Choice of the recipe")));
  report.choice = {{"held_out_tokens", 64}, {"calibration_tokens", 128}, {"chosen", "A<B"}};
  report.choice["candidates"] = {{{"name", "A<B"}, {"kl_table", 0.25}, {"kl_exact", 0.1251}},
                                 {{"name", "C"}, {"refused", "no"}}};
  const std::string page = ReportHtml(ToJson(report));
  for (const char* part : {"A&lt;B", "0.2500", "0.1251", "refused", "64 tokens"})
    EXPECT_THAT(page, HasSubstr(part));
}

TEST(ReportHtml, ShowsWhatHeldOutTextSays) {
  Report report = SmallReport();
  EXPECT_THAT(ReportHtml(ToJson(report)), Not(HasSubstr("Perplexity and KL")));
  nlohmann::json products = {{"perplexity", 11.5},   {"perplexity_stderr", 0.25},
                             {"kl_mean", 0.125},     {"kl_stderr", 0.0625},
                             {"kl_p99", 1.5},        {"top1_agreement", 0.75},
                             {"top1_stderr", 0.125}, {"kl_along_window", {0.25, 0.03125}}};
  report.held_out = {{"tokens", 64}, {"context", 32}, {"table", products}};
  report.held_out["float"] = {{"perplexity", 10.5}, {"perplexity_stderr", 0.5}};
  products["kl_mean"] = 0.0625;
  report.held_out["exact"] = products;
  const std::string page = ReportHtml(ToJson(report));
  for (const char* part :
       {"<td>float</td><td>10.5000 &plusmn; 0.5000</td>", "<td>11.5000 &plusmn; 0.2500</td>",
        "<td>0.1250 &plusmn; 0.0625</td>", "<td>0.0625 &plusmn; 0.0625</td>", "<td>1.5000</td>",
        "<td>0.7500 &plusmn; 0.1250</td>", "64 tokens of the calibration text", "windows of 32",
        "table, sixteenth of the window 1: 0.0312</title>"})
    EXPECT_THAT(page, HasSubstr(part));
}

TEST(ReportHtml, EscapesWhatARecipeHolds) {
  const std::string page = ReportHtml(ToJson(SmallReport()));
  EXPECT_THAT(page, Not(HasSubstr("<b>")));
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;&#39;"));
}

TEST(ReportHtml, LeavesOutWhatTheReportLacks) {
  Report report = SmallReport();
  report.keys.clear();
  EXPECT_THAT(ReportHtml(ToJson(report)), Not(HasSubstr("Channels of K")));
  report.linears.clear();
  EXPECT_THAT(ReportHtml(ToJson(report)), Not(HasSubstr("<svg")));
}

TEST(SvgPlot, PutsValuesWhereTheyBelong) {
  const std::string chart = LineChart({"a", "x", "y"}, {{"one", {0.0, 1.0, NAN, 0.5}}});
  // The axis goes from 0 at 256 to 1 at 26; 780 wide from 52 for four places.
  EXPECT_THAT(chart, HasSubstr("d=\" M52.0 256.0 L312.0 26.0 M832.0 141.0\""));
  EXPECT_EQ(Count(chart, "<circle"), 3u);
  EXPECT_THAT(LineChart({"a", "x", "y"}, {{"zero", {0.0}}}), Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace fireq::quant
