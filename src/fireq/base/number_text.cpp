#include "fireq/base/number_text.h"

#include <charconv>
#include <limits>

namespace fireq {
namespace {

std::string Text(double value, std::chars_format format, int precision) {
  // A sign, the digits of the largest double, the point and what follows it; an exponent is
  // shorter.
  constexpr int kLongestInteger = std::numeric_limits<double>::max_exponent10 + 1;
  std::string out(static_cast<size_t>(kLongestInteger + precision + 2), '\0');
  const auto result = std::to_chars(out.data(), out.data() + out.size(), value, format, precision);
  out.resize(static_cast<size_t>(result.ptr - out.data()));
  return out;
}

}  // namespace

std::string FixedText(double value, int decimals) {
  return Text(value, std::chars_format::fixed, decimals);
}

std::string ScientificText(double value, int decimals) {
  return Text(value, std::chars_format::scientific, decimals);
}

std::string GeneralText(double value, int digits) {
  return Text(value, std::chars_format::general, digits);
}

std::optional<double> ParseNumber(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (stop != end || error != std::errc()) return std::nullopt;
  return value;
}

}  // namespace fireq
