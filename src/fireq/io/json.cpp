#include "fireq/io/json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "fireq/base/error.h"
#include "fireq/io/text_file.h"

namespace fireq {
namespace {

using Json = nlohmann::json;

// For what a message quotes of a text that need not be UTF-8.
std::string Printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80) {
      out += c;
      continue;
    }
    char hex[8];
    std::snprintf(hex, sizeof hex, "\\x%02X", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += hex;
  }
  return out;
}

// Iterates over the text and tells how far the parser has read: the SAX callbacks for keys and
// containers carry no position of their own.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

// Builds the value and refuses what ParseJson refuses; the first failure is kept in error().
class StrictBuilder final : public nlohmann::json_sax<Json> {
 public:
  explicit StrictBuilder(Json& root) : root_(root) {}
  const std::string& error() const { return error_; }

  bool null() override { return Add(nullptr); }
  bool boolean(bool v) override { return Add(v); }
  bool number_integer(number_integer_t v) override { return Add(v); }
  bool number_unsigned(number_unsigned_t v) override { return Add(v); }
  bool number_float(number_float_t v, const string_t&) override { return Add(v); }
  bool string(string_t& v) override { return Add(std::move(v)); }
  bool binary(binary_t&) override { return Fail("binary value"); }

  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    if (stack_.back()->contains(name)) {
      return Fail(StrCat("duplicate key ", DescribeJson(name), " in ", Path()));
    }
    keys_.back() = name;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    // The library's message begins with "[json.exception...] "; the rest says what is wrong.
    const std::string_view text = e.what();
    const size_t bracket = text.find("] ");
    return Fail(Printable(bracket == text.npos ? text : text.substr(bracket + 2)));
  }

 private:
  bool Fail(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }

  // Where we are, as "the top level" or "a.b[3]".
  std::string Path() const {
    std::string path;
    for (size_t i = 0; i + 1 < stack_.size(); ++i) {
      if (stack_[i]->is_array()) {
        path += StrCat("[", stack_[i]->size() - 1, "]");
      } else {
        path += (path.empty() ? "" : ".") + keys_[i];
      }
    }
    if (path.size() > 200) path = path.substr(0, 200) + "...";
    return path.empty() ? "the top level" : path;
  }

  Json* Place(Json&& value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& slot = parent[keys_.back()];
    slot = std::move(value);
    return &slot;
  }

  bool Add(Json&& value) {
    Place(std::move(value));
    return true;
  }

  // A parent does not grow while its child is open, so the pointers on the stack stay valid.
  bool Open(Json&& container) {
    if (stack_.size() >= static_cast<size_t>(kMaxJsonDepth)) {
      return Fail(StrCat("nesting deeper than ", kMaxJsonDepth, " levels"));
    }
    stack_.push_back(Place(std::move(container)));
    keys_.emplace_back();
    return true;
  }

  bool Close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  Json& root_;
  std::vector<Json*> stack_;
  std::vector<std::string> keys_;
  std::string error_;
};

std::string Expected(const std::string& place, std::string_view expected, const std::string& got) {
  return StrCat(place, ": expected ", expected, ", got ", got);
}

int64_t CheckedInt(const Json& value, const std::string& place, int64_t min, int64_t max) {
  const bool fits =
      value.is_number_integer() &&
      (!value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
  const int64_t number = fits ? value.get<int64_t>() : 0;
  FIREQ_CHECK(fits && number >= min && number <= max, kCorrupt,
              Expected(place, StrCat("an integer in ", min, "..", max), DescribeJson(value)));
  return number;
}

double CheckedNumber(const Json& value, const std::string& place, double min, double max) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  FIREQ_CHECK(std::isfinite(number) && number >= min && number <= max, kCorrupt,
              Expected(place, StrCat("a number in ", min, "..", max), DescribeJson(value)));
  return number;
}

// Calls each(element, place of the element) over an array, or once over a scalar.
template <class Each>
void ForEachElement(const Json& value, const std::string& place, const Each& each) {
  if (!value.is_array()) return each(value, place);
  for (size_t i = 0; i < value.size(); ++i) each(value[i], StrCat(place, "[", i, "]"));
}

}  // namespace

nlohmann::json ParseJson(std::string_view text, const std::string& name, int64_t max_bytes) {
  FIREQ_CHECK(static_cast<int64_t>(text.size()) <= max_bytes, kUnsupported, name, ": JSON of ",
              text.size(), " bytes is above the limit of ", max_bytes);
  Json root;
  StrictBuilder builder(root);
  const char* furthest = text.data();
  const char* end = text.data() + text.size();
  const bool ok = Json::sax_parse(CountingIterator(text.data(), &furthest),
                                  CountingIterator(end, &furthest), &builder);
  FIREQ_CHECK(ok, kCorrupt, name, ": invalid JSON at byte ", furthest - text.data(), ": ",
              builder.error());
  return root;
}

nlohmann::json ReadJsonFile(const std::filesystem::path& path, int64_t max_bytes) {
  return ParseJson(ReadTextFile(path, max_bytes), path.string(), max_bytes);
}

std::string DescribeJson(const nlohmann::json& value) {
  constexpr size_t kMaxShown = 60;
  if (value.is_array()) return StrCat("an array of ", value.size());
  if (value.is_object()) return StrCat("an object of ", value.size(), " keys");
  if (value.is_string() && value.get_ref<const std::string&>().size() > kMaxShown) {
    const Json head = value.get_ref<const std::string&>().substr(0, kMaxShown);
    return head.dump(-1, ' ', true, Json::error_handler_t::replace) + "...";
  }
  return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

JsonObject::JsonObject(const nlohmann::json& value, std::string place)
    : value_(&value), place_(std::move(place)) {
  FIREQ_CHECK(value.is_object(), kCorrupt, Expected(place_, "an object", DescribeJson(value)));
}

std::string JsonObject::PlaceOf(const std::string& key) const {
  const bool nested = place_.find(": ") != std::string::npos;
  return StrCat(place_, nested ? "." : ": ", key);
}

const nlohmann::json* JsonObject::Find(const std::string& key) const {
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

const nlohmann::json& JsonObject::Need(const std::string& key, std::string_view expected) const {
  const Json* found = Find(key);
  FIREQ_CHECK(found != nullptr, kCorrupt, Expected(PlaceOf(key), expected, "nothing"));
  return *found;
}

int64_t JsonObject::Int(const std::string& key, int64_t min, int64_t max) const {
  return CheckedInt(Need(key, StrCat("an integer in ", min, "..", max)), PlaceOf(key), min, max);
}

int64_t JsonObject::IntOr(const std::string& key, int64_t min, int64_t max,
                          int64_t fallback) const {
  return Has(key) ? Int(key, min, max) : fallback;
}

double JsonObject::Number(const std::string& key, double min, double max) const {
  return CheckedNumber(Need(key, StrCat("a number in ", min, "..", max)), PlaceOf(key), min, max);
}

double JsonObject::NumberOr(const std::string& key, double min, double max, double fallback) const {
  return Has(key) ? Number(key, min, max) : fallback;
}

bool JsonObject::Bool(const std::string& key) const {
  const Json& value = Need(key, "true or false");
  FIREQ_CHECK(value.is_boolean(), kCorrupt,
              Expected(PlaceOf(key), "true or false", DescribeJson(value)));
  return value.get<bool>();
}

bool JsonObject::BoolOr(const std::string& key, bool fallback) const {
  return Has(key) ? Bool(key) : fallback;
}

std::string JsonObject::String(const std::string& key) const {
  const Json& value = Need(key, "a string");
  FIREQ_CHECK(value.is_string(), kCorrupt, Expected(PlaceOf(key), "a string", DescribeJson(value)));
  return value.get<std::string>();
}

std::string JsonObject::StringOr(const std::string& key, std::string fallback) const {
  return Has(key) ? String(key) : std::move(fallback);
}

JsonObject JsonObject::Object(const std::string& key) const {
  return JsonObject(Need(key, "an object"), PlaceOf(key));
}

std::vector<int64_t> JsonObject::Ints(const std::string& key, int64_t min, int64_t max) const {
  std::vector<int64_t> out;
  if (!Has(key)) return out;
  ForEachElement(*Find(key), PlaceOf(key), [&](const Json& value, const std::string& place) {
    out.push_back(CheckedInt(value, place, min, max));
  });
  return out;
}

std::vector<double> JsonObject::Numbers(const std::string& key, double min, double max) const {
  std::vector<double> out;
  if (!Has(key)) return out;
  ForEachElement(*Find(key), PlaceOf(key), [&](const Json& value, const std::string& place) {
    out.push_back(CheckedNumber(value, place, min, max));
  });
  return out;
}

std::vector<std::string> JsonObject::Strings(const std::string& key) const {
  std::vector<std::string> out;
  if (!Has(key)) return out;
  ForEachElement(*Find(key), PlaceOf(key), [&](const Json& value, const std::string& place) {
    FIREQ_CHECK(value.is_string(), kCorrupt, Expected(place, "a string", DescribeJson(value)));
    out.push_back(value.get<std::string>());
  });
  return out;
}

void JsonObject::RefuseUnknownKeys(const std::vector<std::string_view>& known) const {
  for (const auto& [key, unused] : value_->items()) {
    const bool found = std::find(known.begin(), known.end(), key) != known.end();
    FIREQ_CHECK(found, kCorrupt, PlaceOf(key), ": unknown key");
  }
}

}  // namespace fireq
