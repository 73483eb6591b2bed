// Numbers as text and back with a point between the digits, whatever the process's locale says: a
// program that links the library may have called setlocale(), which printf and strtod follow.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fireq {

// As printf's "%.*f" in the C locale.
std::string FixedText(double value, int decimals);
// As printf's "%.*e".
std::string ScientificText(double value, int decimals);
// As printf's "%.*g".
std::string GeneralText(double value, int digits);

// The number that all of `text` spells in decimal ("-1.5", "2e3"); nothing if it spells none or one
// beyond a double's range.
std::optional<double> ParseNumber(std::string_view text);

}  // namespace fireq
