// Small charts as SVG text, coloured by the page's style sheet (light and dark).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fireq::quant {

// Up to three significant digits, as short as they get.
std::string ShortNumber(double value);

struct Series {
  std::string name;
  std::vector<double> values;  // at 0, 1, 2, ...; NaN leaves a gap
};

struct ChartText {
  std::string title;    // read out by screen readers
  std::string x_label;  // of the values' places, e.g. "layer"
  std::string y_label;
};

// Lines over a common axis from 0, with a legend; each point tells its value to a pointer that
// rests on it. Series i has the CSS class s<i>.
std::string LineChart(const ChartText& text, const std::vector<Series>& series);

// The same without axes, one word of caption below: for many side by side. `top` is the y axis'
// end.
std::string SparkChart(const std::string& caption, const std::vector<Series>& series, double top);

}  // namespace fireq::quant
