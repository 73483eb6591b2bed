// Runs a parsed template.
#pragma once

#include <ctime>
#include <string>
#include <vector>

#include "fireq/text/jinja/ast.h"

namespace fireq::jinja {

inline constexpr size_t kMaxOutputBytes = size_t{16} << 20;

// Renders `body` with `variables`. Errors carry the line: kInvalidArgument for what the template
// refuses or what its values do not allow, kUnsupported for what FireQ does not have and for
// exceeded limits (work, output, nesting).
std::string Render(const Body& body, const Items& variables, std::time_t now);

}  // namespace fireq::jinja
