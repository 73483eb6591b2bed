// The tojson filter as chat templates know it: json.dumps(value, ensure_ascii=False).
#include <algorithm>
#include <cmath>

#include "fireq/base/error.h"
#include "fireq/text/jinja/value.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

void AppendJsonString(std::string_view text, std::string& out) {
  constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[static_cast<unsigned char>(c) >> 4];
          out += kHex[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

class Writer {
 public:
  Writer(int indent, bool sort_keys, std::string& out)
      : indent_(indent), sort_keys_(sort_keys), out_(out) {}

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
        AppendJsonString(value.AsString(), out_);
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
    if (indent_ < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(indent_) * static_cast<size_t>(level_), ' ');
    FIREQ_CHECK(static_cast<int64_t>(out_.size()) <= kMaxWeight, kUnsupported, "tojson: more than ",
                kMaxWeight, " bytes");
  }

  void Separate(bool& first) {
    if (!first) out_ += indent_ < 0 ? ", " : ",";
    first = false;
    NewLine();
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
    if (sort_keys_) {
      std::ranges::stable_sort(entries, [](auto* a, auto* b) { return Less(a->first, b->first); });
    }
    out_ += '{';
    ++level_;
    bool first = true;
    for (const auto* entry : entries) {
      Separate(first);
      WriteKey(entry->first);
      out_ += ": ";
      Write(entry->second);
    }
    --level_;
    if (!first) NewLine();
    out_ += '}';
  }

  void WriteKey(const Value& key) {
    if (key.Is(Type::kString)) return AppendJsonString(key.AsString(), out_);
    out_ += '"';
    Write(key);
    out_ += '"';
  }

  int indent_;
  bool sort_keys_;
  std::string& out_;
  int level_ = 0;
};

}  // namespace

std::string ToJson(const Value& value, int indent, bool sort_keys) {
  std::string out;
  Writer(indent, sort_keys, out).Write(value);
  return out;
}

}  // namespace fireq::jinja
