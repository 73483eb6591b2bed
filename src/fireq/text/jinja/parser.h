// Template source -> tree.
#pragma once

#include <string_view>

#include "fireq/text/jinja/ast.h"

namespace fireq::jinja {

// Errors, each with the line: kCorrupt for bad syntax, kUnsupported for statements that FireQ does
// not have (include, extends, ...), by name, and for nesting deeper than templates need.
Body ParseTemplate(std::string_view source);

}  // namespace fireq::jinja
