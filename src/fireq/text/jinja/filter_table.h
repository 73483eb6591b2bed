// The tables behind ApplyFilter, one for each kind of filter.
#pragma once

#include <span>
#include <string_view>

#include "fireq/text/jinja/runtime.h"

namespace fireq::jinja {

struct FilterRow {
  std::string_view name;
  Value (*filter)(Runtime& runtime, const Value& value, const Arguments& arguments);
};

std::span<const FilterRow> ScalarFilters();    // of text and numbers
std::span<const FilterRow> SequenceFilters();  // of lists and dicts

}  // namespace fireq::jinja
