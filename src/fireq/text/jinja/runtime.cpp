#include "fireq/text/jinja/runtime.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fireq/base/error.h"
#include "fireq/text/utf8.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

class BoundMethod : public Object {
 public:
  BoundMethod(Value self, std::string name) : self_(std::move(self)), name_(std::move(name)) {}
  std::string TypeName() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  Value Call(const Arguments& arguments) override { return CallMethod(self_, name_, arguments); }

 private:
  Value self_;
  std::string name_;
};

void CheckDefined(const Value& value, std::string_view wanted) {
  FIREQ_CHECK(!value.Is(Type::kUndefined), kInvalidArgument, value.UndefinedName(),
              " is undefined, so it has no ", wanted);
}

List Characters(std::string_view text) {
  List out;
  while (!text.empty()) {
    const auto size = static_cast<size_t>(text::CharLength(text, 0));
    out.push_back(Value::String(std::string(text.substr(0, size))));
    text.remove_prefix(std::min(size, text.size()));
  }
  return out;
}

// Start, stop and step of a Python slice over `size` items, as indices to visit.
std::vector<int64_t> SliceIndices(int64_t size, const Value& start, const Value& stop,
                                  const Value& step_value) {
  const auto absent = [](const Value& v) { return v.Is(Type::kNone) || v.Is(Type::kUndefined); };
  for (const Value* v : {&start, &stop, &step_value}) {
    FIREQ_CHECK(absent(*v) || v->Is(Type::kInt) || v->Is(Type::kBool), kInvalidArgument,
                "a slice needs integers, got ", v->TypeName());
  }
  const int64_t step = absent(step_value) ? 1 : step_value.AsInt();
  FIREQ_CHECK(step != 0, kInvalidArgument, "a slice has the step 0");
  const auto clamp = [&](const Value& v, int64_t fallback) {
    if (absent(v)) return fallback;
    const int64_t i = v.AsInt() < 0 ? std::max(v.AsInt(), -size - 1) + size : v.AsInt();
    return step > 0 ? std::clamp<int64_t>(i, 0, size) : std::clamp<int64_t>(i, -1, size - 1);
  };
  const int64_t from = clamp(start, step > 0 ? 0 : size - 1);
  const int64_t to = clamp(stop, step > 0 ? size : -1);
  std::vector<int64_t> indices;
  for (int64_t i = from; step > 0 ? i < to : i > to;) {
    indices.push_back(i);
    if (step > size || step < -size) break;  // std::abs of the lowest step is not defined
    i += step;
  }
  return indices;
}

[[noreturn]] void BadOperands(std::string_view op, const Value& left, const Value& right) {
  CheckDefined(left, "value to calculate with");
  CheckDefined(right, "value to calculate with");
  Throw(ErrorCode::kInvalidArgument,
        StrCat("'", op, "' does not work on ", left.TypeName(), " and ", right.TypeName()));
}

Value Repeat(Runtime& runtime, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  int64_t weight = 0;
  FIREQ_CHECK(!__builtin_mul_overflow(value.weight(), count, &weight) && weight <= kMaxWeight,
              kUnsupported, "repeating a value of weight ", value.weight(), " ", count, " times");
  runtime.budget.Charge(weight);
  if (value.Is(Type::kString)) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += value.AsString();
    return Value::String(std::move(out));
  }
  List out;
  for (int64_t i = 0; i < count; ++i) {
    out.insert(out.end(), value.AsList().begin(), value.AsList().end());
  }
  return value.Is(Type::kList) ? Value::MakeList(std::move(out)) : Value::Tuple(std::move(out));
}

Value IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0) return Value::Float(std::pow(static_cast<double>(base), exponent));
  int64_t result = 1;
  for (bool fits = true; exponent > 0; exponent >>= 1) {
    if (exponent & 1) fits = !__builtin_mul_overflow(result, base, &result);
    if (exponent > 1) fits = !__builtin_mul_overflow(base, base, &base) && fits;
    FIREQ_CHECK(fits, kUnsupported, "a power exceeds 64 bits");
  }
  return Value::Int(result);
}

Value IntegerArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") overflow = __builtin_add_overflow(a, b, &result);
  if (op == "-") overflow = __builtin_sub_overflow(a, b, &result);
  if (op == "*") overflow = __builtin_mul_overflow(a, b, &result);
  if (op == "**") return IntegerPower(a, b);
  if (op == "//" || op == "%" || op == "/") {
    FIREQ_CHECK(b != 0, kInvalidArgument, "division of ", a, " by zero");
    if (op == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    overflow = a == std::numeric_limits<int64_t>::min() && b == -1;
    if (!overflow) {
      const int64_t rest = a % b;
      const bool floors = rest != 0 && (rest < 0) != (b < 0);
      result = op == "%" ? (floors ? rest + b : rest) : a / b - (floors ? 1 : 0);
    }
  }
  FIREQ_CHECK(!overflow, kUnsupported, a, " ", op, " ", b, " exceeds 64 bits");
  return Value::Int(result);
}

Value FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return Value::Float(std::pow(a, b));
  FIREQ_CHECK(b != 0, kInvalidArgument, "division of ", a, " by zero");
  if (op == "/") return Value::Float(a / b);
  if (op == "//") return Value::Float(std::floor(a / b));
  const double rest = std::fmod(a, b);
  return Value::Float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

}  // namespace

void Budget::Charge(int64_t work) {
  left_ -= std::min(work, kMaxWork);
  FIREQ_CHECK(left_ >= 0, kUnsupported, "the template does more than ", kMaxWork, " units of work");
}

ArgumentReader::ArgumentReader(std::string_view function, const Arguments& arguments,
                               std::initializer_list<std::string_view> names)
    : function_(function) {
  FIREQ_CHECK(arguments.positional.size() <= names.size(), kInvalidArgument, function,
              " takes at most ", names.size(), " arguments, got ", arguments.positional.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    values_.emplace_back(names.begin()[i], &arguments.positional[i]);
  }
  for (const auto& [name, value] : arguments.named) {
    FIREQ_CHECK(std::ranges::find(names, name) != names.end(), kInvalidArgument, function,
                " has no argument '", name, "'");
    FIREQ_CHECK(Get(name) == nullptr, kInvalidArgument, function, " got its argument '", name,
                "' twice");
    values_.emplace_back(*std::ranges::find(names, name), &value);
  }
}

const Value* ArgumentReader::Get(std::string_view name) const {
  for (const auto& [key, value] : values_) {
    if (key == name) return value;
  }
  return nullptr;
}

const Value& ArgumentReader::Need(std::string_view name) const {
  const Value* value = Get(name);
  FIREQ_CHECK(value != nullptr, kInvalidArgument, function_, " needs its argument '", name, "'");
  return *value;
}

int64_t ArgumentReader::Int(std::string_view name, int64_t fallback) const {
  const Value* value = Get(name);
  if (value == nullptr || value->Is(Type::kNone)) return fallback;
  FIREQ_CHECK(value->Is(Type::kInt) || value->Is(Type::kBool), kInvalidArgument, function_,
              ": the argument '", name, "' is ", value->TypeName(), ", not int");
  return value->AsInt();
}

bool ArgumentReader::Bool(std::string_view name, bool fallback) const {
  const Value* value = Get(name);
  return value == nullptr ? fallback : value->Truthy();
}

std::string ArgumentReader::String(std::string_view name, std::string_view fallback) const {
  const Value* value = Get(name);
  if (value == nullptr || value->Is(Type::kNone)) return std::string(fallback);
  FIREQ_CHECK(value->Is(Type::kString), kInvalidArgument, function_, ": the argument '", name,
              "' is ", value->TypeName(), ", not str");
  return value->AsString();
}

Value GetAttribute(const Value& value, std::string_view name) {
  CheckDefined(value, StrCat("attribute '", name, "'"));
  if (value.Is(Type::kObject)) return value.AsObject()->Attribute(name);
  if (HasMethod(value, name)) {
    return Value::Of(std::make_shared<BoundMethod>(value, std::string(name)));
  }
  RefuseUnsupportedMethod(value, name);
  if (const Value* field = value.Field(name)) return *field;
  if (value.Is(Type::kDict)) {
    const Value* entry = value.Find(name);
    if (entry != nullptr) return *entry;
  }
  return Value::Undefined(StrCat("'", name, "' of a value of type ", value.TypeName()));
}

Value GetItem(const Value& value, const Value& key) {
  CheckDefined(value, StrCat("item ", key.ToString().substr(0, 40)));
  if (value.Is(Type::kDict)) {
    const Value* entry = value.Find(key);
    if (entry != nullptr) return *entry;
  } else if ((value.IsSequence() || value.Is(Type::kString)) &&
             (key.Is(Type::kInt) || key.Is(Type::kBool))) {
    const int64_t size = Length(value);
    const int64_t index = key.AsInt() < 0 ? key.AsInt() + size : key.AsInt();
    if (index < 0 || index >= size) {
      return Value::Undefined(StrCat("item ", key.AsInt(), " of ", size));
    }
    if (value.IsSequence()) return value.AsList()[static_cast<size_t>(index)];
    return Characters(value.AsString())[static_cast<size_t>(index)];
  }
  if (key.Is(Type::kString)) return GetAttribute(value, key.AsString());
  return Value::Undefined(
      StrCat("item ", key.ToString().substr(0, 40), " of a value of type ", value.TypeName()));
}

Value Slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
            const Value& step) {
  CheckDefined(value, "slices");
  const bool is_string = value.Is(Type::kString);
  FIREQ_CHECK(is_string || value.IsSequence(), kInvalidArgument, "a value of type ",
              value.TypeName(), " has no slices");
  runtime.budget.Charge(value.weight());
  const List items = is_string ? Characters(value.AsString()) : value.AsList();
  List out;
  for (const int64_t i : SliceIndices(static_cast<int64_t>(items.size()), start, stop, step)) {
    out.push_back(items[static_cast<size_t>(i)]);
  }
  if (value.Is(Type::kList)) return Value::MakeList(std::move(out));
  if (value.Is(Type::kTuple)) return Value::Tuple(std::move(out));
  std::string text;
  for (const Value& c : out) text += c.AsString();
  return Value::String(std::move(text));
}

Value Call(const Value& callee, const Arguments& arguments) {
  FIREQ_CHECK(!callee.Is(Type::kUndefined), kInvalidArgument, callee.UndefinedName(),
              " is undefined, so it cannot be called");
  FIREQ_CHECK(callee.Is(Type::kObject), kInvalidArgument, "a value of type ", callee.TypeName(),
              " cannot be called");
  return callee.AsObject()->Call(arguments);
}

List Iterate(Runtime& runtime, const Value& value) {
  runtime.budget.Charge(value.weight());
  switch (value.type()) {
    case Type::kUndefined:
      return {};
    case Type::kString:
      return Characters(value.AsString());
    case Type::kList:
    case Type::kTuple:
      return value.AsList();
    case Type::kDict: {
      List keys;
      for (const auto& entry : value.AsDict()) keys.push_back(entry.first);
      return keys;
    }
    default:
      Throw(ErrorCode::kInvalidArgument,
            StrCat("a value of type ", value.TypeName(), " cannot be iterated over"));
  }
}

int64_t Length(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      return std::ranges::count_if(value.AsString(), [](char c) { return (c & 0xC0) != 0x80; });
    case Type::kList:
    case Type::kTuple:
      return static_cast<int64_t>(value.AsList().size());
    case Type::kDict:
      return static_cast<int64_t>(value.AsDict().size());
    default:
      Throw(ErrorCode::kInvalidArgument,
            StrCat("a value of type ", value.TypeName(), " has no length"));
  }
}

bool Contains(Runtime& runtime, const Value& container, const Value& item) {
  runtime.budget.Charge(container.weight() + item.weight());
  switch (container.type()) {
    case Type::kUndefined:
      return false;
    case Type::kString:
      FIREQ_CHECK(item.Is(Type::kString), kInvalidArgument, "'in' a str needs a str, got ",
                  item.TypeName());
      return container.AsString().find(item.AsString()) != std::string::npos;
    case Type::kList:
    case Type::kTuple:
      return std::ranges::any_of(container.AsList(),
                                 [&](const Value& other) { return Equal(item, other); });
    case Type::kDict:
      return container.Find(item) != nullptr;
    default:
      Throw(ErrorCode::kInvalidArgument,
            StrCat("'in' does not work on a value of type ", container.TypeName()));
  }
}

Value Arithmetic(Runtime& runtime, std::string_view op, const Value& left, const Value& right) {
  if (left.IsNumber() && right.IsNumber()) {
    if (left.Is(Type::kFloat) || right.Is(Type::kFloat)) {
      return FloatArithmetic(op, left.AsFloat(), right.AsFloat());
    }
    return IntegerArithmetic(op, left.AsInt(), right.AsInt());
  }
  runtime.budget.Charge(left.weight() + right.weight());
  if (op == "+" && left.Is(Type::kString) && right.Is(Type::kString)) {
    return Value::String(left.AsString() + right.AsString());
  }
  if (op == "+" && left.IsSequence() && left.type() == right.type()) {
    List joined = left.AsList();
    joined.insert(joined.end(), right.AsList().begin(), right.AsList().end());
    return left.Is(Type::kList) ? Value::MakeList(std::move(joined))
                                : Value::Tuple(std::move(joined));
  }
  const auto repeats = [](const Value& a, const Value& b) {
    return (a.Is(Type::kString) || a.IsSequence()) && (b.Is(Type::kInt) || b.Is(Type::kBool));
  };
  if (op == "*" && repeats(left, right)) return Repeat(runtime, left, right.AsInt());
  if (op == "*" && repeats(right, left)) return Repeat(runtime, right, left.AsInt());
  if (op == "%" && left.Is(Type::kString)) {
    return Value::String(FormatPercent(left.AsString(), right));
  }
  BadOperands(op, left, right);
}

}  // namespace fireq::jinja
