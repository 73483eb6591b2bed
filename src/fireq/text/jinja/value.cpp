#include "fireq/text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "fireq/base/error.h"
#include "fireq/text/unicode_normal.h"
#include "fireq/text/utf8.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

void CheckBounds(int64_t weight, int depth) {
  FIREQ_CHECK(weight <= kMaxWeight, kUnsupported, "a template value of weight ", weight,
              "; at most ", kMaxWeight, " are supported");
  FIREQ_CHECK(depth <= kMaxValueDepth, kUnsupported, "a template value nested more than ",
              kMaxValueDepth, " deep");
}

// Objects (macros, loops, namespaces) live in variables only: inside other values they could
// outlive the scope that they refer to.
void CheckItem(const Value& item) {
  FIREQ_CHECK(!item.Is(Type::kObject), kUnsupported, "a ", item.TypeName(),
              " inside another value is not supported");
}

bool IsKey(const Value& value) {
  return value.Is(Type::kString) || value.IsNumber() || value.Is(Type::kNone);
}

// A total order of keys, for lookup only: numbers, then None, then strings.
int KeyClass(const Value& key) { return key.IsNumber() ? 0 : key.Is(Type::kNone) ? 1 : 2; }

bool KeyLess(const Value& a, const Value& b) {
  const int class_a = KeyClass(a);
  if (class_a != KeyClass(b)) return class_a < KeyClass(b);
  if (class_a == 0) return a.AsFloat() < b.AsFloat();
  return class_a == 2 && a.AsString() < b.AsString();
}

template <class Json>
Value FromAnyJson(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::Bool(json.template get<bool>());
    case Json::value_t::number_integer:
      return Value::Int(json.template get<int64_t>());
    case Json::value_t::number_unsigned: {
      const auto number = json.template get<uint64_t>();
      if (number > static_cast<uint64_t>(INT64_MAX))
        return Value::Float(static_cast<double>(number));
      return Value::Int(static_cast<int64_t>(number));
    }
    case Json::value_t::number_float:
      return Value::Float(json.template get<double>());
    case Json::value_t::string:
      return Value::String(json.template get<std::string>());
    case Json::value_t::array: {
      List items;
      for (const Json& item : json) items.push_back(FromAnyJson(item));
      return Value::MakeList(std::move(items));
    }
    case Json::value_t::object: {
      Items items;
      for (const auto& [key, item] : json.items()) {
        items.emplace_back(Value::String(key), FromAnyJson(item));
      }
      return Value::Dict(std::move(items));
    }
    default:
      return Value::None();
  }
}

// Python's repr of a string.
void AppendQuoted(std::string_view text, std::string& out) {
  const bool has_single = text.find('\'') != text.npos;
  const char quote = has_single && text.find('"') == text.npos ? '"' : '\'';
  constexpr char kHex[] = "0123456789abcdef";
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    const auto [code, length] = text::DecodeFirst(text.substr(at));
    const auto size = static_cast<size_t>(std::max(length, 1));
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (length == 0 || text::IsPrintable(code)) {
      out += text.substr(at, size);
    } else {
      const int digits = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
      out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
      for (int shift = 4 * digits - 4; shift >= 0; shift -= 4) out += kHex[(code >> shift) & 15];
    }
    at += size;
  }
  out += quote;
}

}  // namespace

Value Object::Call(const Arguments&) {
  Throw(ErrorCode::kInvalidArgument, StrCat("'", TypeName(), "' is not callable"));
}
Value Object::Attribute(std::string_view) const { return {}; }
bool Object::SetAttribute(std::string_view, const Value&) { return false; }

Value Value::Undefined(std::string name) {
  Value v;
  v.data_ = std::make_shared<std::string>(std::move(name));
  return v;
}
Value Value::None() {
  Value v;
  v.type_ = Type::kNone;
  return v;
}
Value Value::Bool(bool b) {
  Value v;
  v.type_ = Type::kBool;
  v.number_.i = b ? 1 : 0;
  return v;
}
Value Value::Int(int64_t i) {
  Value v;
  v.type_ = Type::kInt;
  v.number_.i = i;
  return v;
}
Value Value::Float(double d) {
  Value v;
  v.type_ = Type::kFloat;
  v.number_.d = d;
  return v;
}
Value Value::String(std::string s) {
  CheckBounds(static_cast<int64_t>(s.size()), 1);
  Value v;
  v.type_ = Type::kString;
  v.data_ = std::make_shared<std::string>(std::move(s));
  return v;
}

std::shared_ptr<Value::ListData> Value::ShareList(List items) {
  auto data = std::make_shared<ListData>();
  for (const Value& item : items) {
    CheckItem(item);
    data->weight += item.weight();
    data->depth = std::max(data->depth, item.depth() + 1);
    CheckBounds(data->weight, data->depth);
  }
  data->items = std::move(items);
  return data;
}

Value Value::MakeList(List items) {
  Value v;
  v.type_ = Type::kList;
  v.data_ = ShareList(std::move(items));
  return v;
}
Value Value::Tuple(List items) {
  Value v;
  v.type_ = Type::kTuple;
  v.data_ = ShareList(std::move(items));
  return v;
}
Value Value::NamedTuple(std::vector<std::string_view> names, List items) {
  auto data = ShareList(std::move(items));
  data->names = std::move(names);
  Value v;
  v.type_ = Type::kTuple;
  v.data_ = std::move(data);
  return v;
}

Value Value::Dict(Items items) {
  auto data = std::make_shared<DictData>();
  for (const auto& [key, item] : items) {
    FIREQ_CHECK(IsKey(key), kUnsupported, "a value of type ", key.TypeName(),
                " as a key of a dict");
    CheckItem(item);
    data->weight += key.weight() + item.weight();
    data->depth = std::max(data->depth, item.depth() + 1);
    CheckBounds(data->weight, data->depth);
  }
  // Equal keys become neighbours, in order; the first keeps the place, the last gives the value.
  std::vector<uint32_t> order(items.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto less = [&](uint32_t a, uint32_t b) { return KeyLess(items[a].first, items[b].first); };
  std::ranges::stable_sort(order, less);
  std::vector<bool> dropped(items.size(), false);
  for (size_t i = 0, first = 0; i < order.size(); ++i) {
    if (less(order[first], order[i])) first = i;
    if (first == i) continue;
    items[order[first]].second = items[order[i]].second;
    dropped[order[i]] = true;
  }
  for (size_t i = 0; i < items.size(); ++i) {
    if (!dropped[i]) data->items.push_back(std::move(items[i]));
  }
  data->order.resize(data->items.size());
  for (uint32_t i = 0; i < data->order.size(); ++i) data->order[i] = i;
  std::ranges::sort(data->order, [&](uint32_t a, uint32_t b) {
    return KeyLess(data->items[a].first, data->items[b].first);
  });
  Value v;
  v.type_ = Type::kDict;
  v.data_ = std::move(data);
  return v;
}

Value Value::Of(std::shared_ptr<Object> object) {
  Value v;
  v.type_ = Type::kObject;
  v.data_ = std::move(object);
  return v;
}

Value Value::FromJson(const nlohmann::json& json) { return FromAnyJson(json); }
Value Value::FromJson(const nlohmann::ordered_json& json) { return FromAnyJson(json); }

std::string Value::UndefinedName() const {
  return Is(Type::kUndefined) && data_ != nullptr ? AsString() : "the value";
}

const Value* Value::Find(const Value& key) const {
  if (!IsKey(key)) return nullptr;
  const DictData& data = dict_data();
  const auto at = std::ranges::lower_bound(
      data.order, key, KeyLess, [&](uint32_t i) -> const Value& { return data.items[i].first; });
  if (at == data.order.end() || KeyLess(key, data.items[*at].first)) return nullptr;
  return &data.items[*at].second;
}
const Value* Value::Find(std::string_view key) const { return Find(String(std::string(key))); }

const Value* Value::Field(std::string_view name) const {
  if (!Is(Type::kTuple)) return nullptr;
  const ListData& data = list_data();
  for (size_t i = 0; i < data.names.size(); ++i) {
    if (data.names[i] == name) return &data.items[i];
  }
  return nullptr;
}

int64_t Value::weight() const {
  if (Is(Type::kString)) return 1 + static_cast<int64_t>(AsString().size());
  if (IsSequence()) return list_data().weight;
  return Is(Type::kDict) ? dict_data().weight : 1;
}

int Value::depth() const {
  if (IsSequence()) return list_data().depth;
  return Is(Type::kDict) ? dict_data().depth : 1;
}

bool Value::Truthy() const {
  switch (type_) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kInt:
      return number_.i != 0;
    case Type::kFloat:
      return number_.d != 0;
    case Type::kString:
      return !AsString().empty();
    case Type::kList:
    case Type::kTuple:
      return !AsList().empty();
    case Type::kDict:
      return !AsDict().empty();
    case Type::kObject:
      return true;
  }
  return false;
}

std::string Value::TypeName() const {
  constexpr const char* kNames[] = {"undefined", "NoneType", "bool",  "int",  "float",
                                    "str",       "list",     "tuple", "dict", "object"};
  return Is(Type::kObject) ? AsObject()->TypeName() : kNames[static_cast<int>(type_)];
}

std::string Value::ToString() const {
  if (Is(Type::kString)) return AsString();
  if (Is(Type::kUndefined)) return "";
  std::string out;
  AppendRepr(out);
  return out;
}

void Value::AppendRepr(std::string& out) const {
  switch (type_) {
    case Type::kUndefined:
      out += "Undefined";
      break;
    case Type::kNone:
      out += "None";
      break;
    case Type::kBool:
      out += AsBool() ? "True" : "False";
      break;
    case Type::kInt:
      out += std::to_string(AsInt());
      break;
    case Type::kFloat:
      out += FloatRepr(number_.d);
      break;
    case Type::kString:
      AppendQuoted(AsString(), out);
      break;
    case Type::kList:
    case Type::kTuple: {
      const char* separator = "";
      out += Is(Type::kList) ? '[' : '(';
      for (const Value& item : AsList()) {
        out += separator;
        item.AppendRepr(out);
        separator = ", ";
      }
      if (Is(Type::kTuple) && AsList().size() == 1) out += ',';
      out += Is(Type::kList) ? ']' : ')';
      break;
    }
    case Type::kDict: {
      const char* separator = "";
      out += '{';
      for (const auto& [key, item] : AsDict()) {
        out += separator;
        key.AppendRepr(out);
        out += ": ";
        item.AppendRepr(out);
        separator = ", ";
      }
      out += '}';
      break;
    }
    case Type::kObject:
      out += "<" + AsObject()->TypeName() + ">";
      break;
  }
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (!a.Is(Type::kFloat) && !b.Is(Type::kFloat)) return a.AsInt() == b.AsInt();
    return a.AsFloat() == b.AsFloat();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kString:
      return a.AsString() == b.AsString();
    case Type::kList:
    case Type::kTuple:
      return std::ranges::equal(a.AsList(), b.AsList(), Equal);
    case Type::kDict:
      return a.AsDict().size() == b.AsDict().size() &&
             std::ranges::all_of(a.AsDict(), [&](const auto& entry) {
               const Value* other = b.Find(entry.first);
               return other != nullptr && Equal(entry.second, *other);
             });
    case Type::kObject:
      return a.AsObject() == b.AsObject();
    default:
      return true;
  }
}

bool Less(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (!a.Is(Type::kFloat) && !b.Is(Type::kFloat)) return a.AsInt() < b.AsInt();
    return a.AsFloat() < b.AsFloat();
  }
  if (a.Is(Type::kString) && b.Is(Type::kString)) return a.AsString() < b.AsString();
  if (a.IsSequence() && a.type() == b.type()) {
    const List& left = a.AsList();
    const List& right = b.AsList();
    for (size_t i = 0; i < left.size() && i < right.size(); ++i) {
      if (!Equal(left[i], right[i])) return Less(left[i], right[i]);
    }
    return left.size() < right.size();
  }
  Throw(ErrorCode::kInvalidArgument, StrCat("a value of type ", a.TypeName(),
                                            " cannot be compared with one of type ", b.TypeName()));
}

std::string FloatRepr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[64];
  const double magnitude = std::fabs(d);
  const bool plain = d == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), d, format);
  std::string out(buffer, result.ptr);
  if (plain && out.find('.') == out.npos) out += ".0";
  return out;
}

}  // namespace fireq::jinja
