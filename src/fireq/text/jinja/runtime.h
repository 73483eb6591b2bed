// What expressions can do with values: attributes, items, calls, operators, filters, tests and
// methods, within a budget of work.
#pragma once

#include <cstdint>
#include <ctime>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/text/jinja/value.h"

namespace fireq::jinja {

// Bounds what a template may do; each exceeded limit throws kUnsupported, naming it.
class Budget {
 public:
  // One unit is about one byte made or a nanosecond or two.
  void Charge(int64_t work);
  static constexpr int64_t kMaxWork = int64_t{256} << 20;
  // What visiting a node of the tree and going once around a loop cost.
  static constexpr int64_t kNode = 16;
  static constexpr int64_t kIteration = 128;

 private:
  int64_t left_ = kMaxWork;
};

struct Runtime {
  Budget budget;
  std::time_t now = 0;  // what strftime_now shows, in local time
};

// The arguments of one call by parameter name. Errors: kInvalidArgument for too many and for
// unknown names, naming the function.
class ArgumentReader {
 public:
  ArgumentReader(std::string_view function, const Arguments& arguments,
                 std::initializer_list<std::string_view> names);

  // nullptr where the caller gave none.
  const Value* Get(std::string_view name) const;
  const Value& Need(std::string_view name) const;
  // With conversions: kInvalidArgument, naming function and parameter, for another type.
  int64_t Int(std::string_view name, int64_t fallback) const;
  bool Bool(std::string_view name, bool fallback) const;
  std::string String(std::string_view name, std::string_view fallback) const;

 private:
  std::string_view function_;
  std::vector<std::pair<std::string_view, const Value*>> values_;
};

// value.name and value[key]; Undefined where there is none. Errors: kInvalidArgument on undefined,
// kUnsupported for methods of Python that FireQ does not have.
Value GetAttribute(const Value& value, std::string_view name);
Value GetItem(const Value& value, const Value& key);
// value[start:stop:step]; None or undefined parts are absent.
Value Slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
            const Value& step);

Value Call(const Value& callee, const Arguments& arguments);

// What a for loop runs over. Errors: kInvalidArgument for what is not iterable.
List Iterate(Runtime& runtime, const Value& value);
// len(value). Errors: as Iterate.
int64_t Length(const Value& value);
bool Contains(Runtime& runtime, const Value& container, const Value& item);

// left op right, op one of + - * / // % **. Errors: kInvalidArgument, naming the types;
// kUnsupported where an integer exceeds 64 bits.
Value Arithmetic(Runtime& runtime, std::string_view op, const Value& left, const Value& right);
// Where the first line of a text ends, for Python's splitlines.
struct Line {
  size_t size = 0;      // bytes
  size_t end_size = 0;  // bytes of what ends it; 0: the text ends there
};
Line FirstLine(std::string_view text);

// Python's "format % value": flags, width, precision and keys; not the widths of '*'.
std::string FormatPercent(std::string_view format, const Value& value);

// Built-in filters, tests, global functions and methods. Errors: kUnsupported for unknown names.
Value ApplyFilter(Runtime& runtime, std::string_view name, const Value& value,
                  const Arguments& arguments);
bool ApplyTest(Runtime& runtime, std::string_view name, const Value& value,
               const Arguments& arguments);
bool HasFilter(std::string_view name);
bool HasTest(std::string_view name);
// A global function, or Undefined.
Value FindGlobal(Runtime& runtime, std::string_view name);
// Whether values of this type have the method; CallMethod runs it.
bool HasMethod(const Value& self, std::string_view name);
// Errors: kUnsupported, by name, for what Python's str and numbers have and FireQ does not.
void RefuseUnsupportedMethod(const Value& self, std::string_view name);
Value CallMethod(const Value& self, std::string_view name, const Arguments& arguments);

// str.strip() and friends: `chars` empty means white space.
std::string_view Strip(std::string_view text, std::string_view chars, bool left, bool right);
std::string ReplaceText(std::string_view text, std::string_view from, std::string_view to,
                        int64_t max_count);
std::string TitleCase(std::string_view text, bool every_word);

}  // namespace fireq::jinja
