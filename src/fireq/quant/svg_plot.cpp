#include "fireq/quant/svg_plot.h"

#include <algorithm>
#include <cmath>

#include "fireq/base/error.h"
#include "fireq/base/html.h"
#include "fireq/base/number_text.h"

namespace fireq::quant {
namespace {

// Where values lie on the canvas, in SVG's units.
struct Frame {
  double left, top, width, height;
  double count;  // of places along x
  double y_top;  // the value at the upper edge

  double X(size_t i) const {
    return left + (count > 1 ? width * static_cast<double>(i) / (count - 1) : width / 2);
  }
  double Y(double value) const { return top + height * (1.0 - value / y_top); }
};

std::string Coordinate(double value) { return FixedText(value, 1); }

// 1, 2 or 5 times a power of ten, so that about five steps reach `top`.
double NiceStep(double top) {
  const double power = std::pow(10.0, std::floor(std::log10(top / 5)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (power * factor * 5 >= top) return power * factor;
  return power * 10;
}

double LargestValue(const std::vector<Series>& series) {
  double largest = 0.0;
  for (const Series& each : series)
    for (const double value : each.values)
      if (std::isfinite(value)) largest = std::max(largest, value);
  return largest > 0.0 ? largest : 1.0;
}

size_t LongestSeries(const std::vector<Series>& series) {
  size_t count = 0;
  for (const Series& each : series) count = std::max(count, each.values.size());
  return count;
}

std::string Line(const Frame& frame, const Series& series, size_t index) {
  std::string path;
  bool pen_down = false;
  for (size_t i = 0; i < series.values.size(); ++i) {
    const double value = series.values[i];
    if (std::isfinite(value))
      path +=
          StrCat(pen_down ? " L" : " M", Coordinate(frame.X(i)), " ", Coordinate(frame.Y(value)));
    pen_down = std::isfinite(value);
  }
  return StrCat("<path class=\"s", index, "\" d=\"", path, "\"/>");
}

std::string Points(const Frame& frame, const Series& series, size_t index,
                   const std::string& x_label) {
  std::string out;
  for (size_t i = 0; i < series.values.size(); ++i) {
    if (!std::isfinite(series.values[i])) continue;
    out += StrCat("<circle class=\"s", index, "\" cx=\"", Coordinate(frame.X(i)), "\" cy=\"",
                  Coordinate(frame.Y(series.values[i])), "\" r=\"3\"><title>",
                  EscapeHtml(series.name), ", ", EscapeHtml(x_label), " ", i, ": ",
                  ShortNumber(series.values[i]), "</title></circle>");
  }
  return out;
}

std::string Axes(const Frame& frame, const ChartText& text) {
  std::string out;
  const double right = frame.left + frame.width, bottom = frame.top + frame.height;
  const double y_step = NiceStep(frame.y_top);
  for (double value = 0.0; value <= frame.y_top * 1.0001; value += y_step)
    out +=
        StrCat("<line class=\"grid\" x1=\"", Coordinate(frame.left), "\" x2=\"", Coordinate(right),
               "\" y1=\"", Coordinate(frame.Y(value)), "\" y2=\"", Coordinate(frame.Y(value)),
               "\"/><text class=\"tick\" text-anchor=\"end\" x=\"", Coordinate(frame.left - 6),
               "\" y=\"", Coordinate(frame.Y(value) + 4), "\">", ShortNumber(value), "</text>");
  const size_t count = static_cast<size_t>(frame.count);
  const size_t x_step = std::max<size_t>(1, (count + 11) / 12);
  for (size_t i = 0; i < count; i += x_step)
    out += StrCat("<text class=\"tick\" text-anchor=\"middle\" x=\"", Coordinate(frame.X(i)),
                  "\" y=\"", Coordinate(bottom + 16), "\">", i, "</text>");
  out += StrCat("<text class=\"label\" text-anchor=\"middle\" x=\"",
                Coordinate(frame.left + frame.width / 2), "\" y=\"", Coordinate(bottom + 34), "\">",
                EscapeHtml(text.x_label), "</text>");
  return out + StrCat("<text class=\"label\" x=\"", Coordinate(frame.left - 44), "\" y=\"14\">",
                      EscapeHtml(text.y_label), "</text>");
}

}  // namespace

std::string ShortNumber(double value) { return GeneralText(value, 3); }

std::string LineChart(const ChartText& text, const std::vector<Series>& series) {
  const double largest = LargestValue(series), step = NiceStep(largest);
  const Frame frame{52,
                    26,
                    780,
                    230,
                    static_cast<double>(LongestSeries(series)),
                    std::ceil(largest / step) * step};
  std::string out = StrCat("<figure><figcaption>");
  for (size_t i = 0; i < series.size(); ++i)
    out += StrCat(
        "<span class=\"key\"><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><path "
        "class=\"s",
        i, "\" d=\"M1 5 L25 5\"/></svg>", EscapeHtml(series[i].name), "</span>");
  out += StrCat("</figcaption><svg viewBox=\"0 0 850 296\" role=\"img\" aria-label=\"",
                EscapeHtml(text.title), "\">", Axes(frame, text));
  for (size_t i = 0; i < series.size(); ++i) out += Line(frame, series[i], i);
  for (size_t i = 0; i < series.size(); ++i) out += Points(frame, series[i], i, text.x_label);
  return out + "</svg></figure>\n";
}

std::string SparkChart(const std::string& caption, const std::vector<Series>& series, double top) {
  const Frame frame{2, 4, 136, 60, static_cast<double>(LongestSeries(series)), top};
  std::string out =
      StrCat("<figure class=\"spark\"><svg viewBox=\"0 0 140 68\" role=\"img\" aria-label=\"",
             EscapeHtml(caption),
             "\"><line class=\"grid\" x1=\"2\" x2=\"138\" y1=\"64\" "
             "y2=\"64\"/>");
  for (size_t i = 0; i < series.size(); ++i) out += Line(frame, series[i], i);
  return out + StrCat("</svg><figcaption>", EscapeHtml(caption), "</figcaption></figure>");
}

}  // namespace fireq::quant
