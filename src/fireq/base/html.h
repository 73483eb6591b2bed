// Text inside HTML.
#pragma once

#include <string>
#include <string_view>

namespace fireq {

// `text` with the five characters that HTML reads as its own replaced, quotes by their numbers.
std::string EscapeHtml(std::string_view text);

}  // namespace fireq
