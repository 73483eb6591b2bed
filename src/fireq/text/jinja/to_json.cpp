// The tojson filter as chat templates know it: json.dumps.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/text/jinja/value.h"
#include "fireq/text/utf8.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

constexpr std::pair<char32_t, std::string_view> kShort[] = {
    {'"', "\\\""}, {'\\', "\\\\"}, {'\n', "\\n"}, {'\r', "\\r"},
    {'\t', "\\t"}, {'\b', "\\b"},  {'\f', "\\f"}};

// One UTF-16 unit, written as \uXXXX.
void AppendUnit(char32_t unit, std::string& out) {
  constexpr char kHex[] = "0123456789abcdef";
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out += kHex[(unit >> shift) & 15];
}

void AppendJsonString(std::string_view text, bool ensure_ascii, std::string& out) {
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const auto [code, length] = text::DecodeFirst(text.substr(at));
    const auto* row =
        std::ranges::find(kShort, code, &std::pair<char32_t, std::string_view>::first);
    if (row != std::end(kShort)) {
      out += row->second;
    } else if (code >= 0x20 && (!ensure_ascii || code < 0x7F)) {
      out += text.substr(at, static_cast<size_t>(std::max(length, 1)));
    } else if (code < 0x10000) {
      AppendUnit(code, out);
    } else {
      AppendUnit(0xD800 + ((code - 0x10000) >> 10), out);
      AppendUnit(0xDC00 + (code & 0x3FF), out);
    }
    at += static_cast<size_t>(std::max(length, 1));
  }
  out += '"';
}

class Writer {
 public:
  Writer(const JsonStyle& style, std::string& out) : style_(style), out_(out) {}

  void Write(const Value& value) {
    switch (value.type()) {
      case Type::kNone:
        out_ += "null";
        break;
      case Type::kBool:
        out_ += value.AsBool() ? "true" : "false";
        break;
      case Type::kInt:
        out_ += std::to_string(value.AsInt());
        break;
      case Type::kFloat:
        WriteFloat(value.AsFloat());
        break;
      case Type::kString:
        AppendJsonString(value.AsString(), style_.ensure_ascii, out_);
        break;
      case Type::kList:
      case Type::kTuple:
        WriteList(value.AsList());
        break;
      case Type::kDict:
        WriteDict(value.AsDict());
        break;
      default:
        Throw(ErrorCode::kInvalidArgument,
              StrCat("tojson: a value of type ", value.TypeName(), " has no JSON form"));
    }
  }

 private:
  void WriteFloat(double d) {
    if (std::isnan(d)) {
      out_ += "NaN";
    } else if (std::isinf(d)) {
      out_ += d < 0 ? "-Infinity" : "Infinity";
    } else {
      out_ += FloatRepr(d);
    }
  }

  void NewLine() {
    if (style_.indent < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(style_.indent) * static_cast<size_t>(level_), ' ');
  }

  void Separate(bool& first) {
    if (!first) out_ += style_.item_separator;
    first = false;
    NewLine();
    FIREQ_CHECK(static_cast<int64_t>(out_.size()) <= kMaxWeight, kUnsupported, "tojson: more than ",
                kMaxWeight, " bytes");
  }

  void WriteList(const List& items) {
    out_ += '[';
    ++level_;
    bool first = true;
    for (const Value& item : items) {
      Separate(first);
      Write(item);
    }
    --level_;
    if (!first) NewLine();
    out_ += ']';
  }

  void WriteDict(const Items& items) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : items) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::ranges::stable_sort(entries, [](auto* a, auto* b) { return Less(a->first, b->first); });
    }
    out_ += '{';
    ++level_;
    bool first = true;
    for (const auto* entry : entries) {
      Separate(first);
      WriteKey(entry->first);
      out_ += style_.key_separator;
      Write(entry->second);
    }
    --level_;
    if (!first) NewLine();
    out_ += '}';
  }

  void WriteKey(const Value& key) {
    if (key.Is(Type::kString)) return AppendJsonString(key.AsString(), style_.ensure_ascii, out_);
    out_ += '"';
    Write(key);
    out_ += '"';
  }

  const JsonStyle& style_;
  std::string& out_;
  int level_ = 0;
};

}  // namespace

std::string ToJson(const Value& value, const JsonStyle& style) {
  std::string out;
  Writer(style, out).Write(value);
  return out;
}

}  // namespace fireq::jinja
