// What "x is NAME" can ask, and the functions that every template can call.
#include <algorithm>
#include <map>

#include "fireq/base/error.h"
#include "fireq/text/jinja/runtime.h"
#include "fireq/text/unicode_normal.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

struct TestRow {
  std::string_view name;
  bool (*test)(Runtime& runtime, const Value& value, const Arguments& arguments);
};

const Value& Other(std::string_view test, const Arguments& arguments) {
  return ArgumentReader(test, arguments, {"other"}).Need("other");
}

bool IsInteger(const Value& v) { return v.Is(Type::kInt); }
bool IsEqual(Runtime& r, const Value& v, const Arguments& a) {
  r.budget.Charge(v.weight());
  return Equal(v, Other("eq", a));
}
bool IsUnequal(Runtime& r, const Value& v, const Arguments& a) { return !IsEqual(r, v, a); }
bool IsLess(Runtime&, const Value& v, const Arguments& a) { return Less(v, Other("lt", a)); }
bool IsGreater(Runtime&, const Value& v, const Arguments& a) { return Less(Other("gt", a), v); }
bool IsAtMost(Runtime&, const Value& v, const Arguments& a) { return !Less(Other("le", a), v); }
bool IsAtLeast(Runtime&, const Value& v, const Arguments& a) { return !Less(v, Other("ge", a)); }

int64_t Remainder(const Value& v, int64_t divisor) {
  FIREQ_CHECK(IsInteger(v) && divisor != 0, kInvalidArgument, "a value of type ", v.TypeName(),
              " has no remainder by ", divisor);
  return divisor == -1 ? 0 : v.AsInt() % divisor;
}

bool IsIterable(const Value& v) {
  return v.Is(Type::kString) || v.IsSequence() || v.Is(Type::kDict) || v.Is(Type::kUndefined);
}

bool IsSameAs(const Value& a, const Value& b) {
  if (a.type() != b.type()) return false;
  if (a.IsSequence()) return &a.AsList() == &b.AsList();
  return a.Is(Type::kDict) ? &a.AsDict() == &b.AsDict() : Equal(a, b);
}

constexpr TestRow kTests[] = {
    {"!=", IsUnequal},
    {"<", IsLess},
    {"<=", IsAtMost},
    {"==", IsEqual},
    {">", IsGreater},
    {">=", IsAtLeast},
    {"boolean", [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kBool); }},
    {"callable", [](Runtime&, const Value& v,
                    const Arguments&) { return v.Is(Type::kObject) && v.AsObject()->callable(); }},
    {"defined", [](Runtime&, const Value& v, const Arguments&) { return !v.Is(Type::kUndefined); }},
    {"divisibleby",
     [](Runtime&, const Value& v, const Arguments& a) {
       return Remainder(v, ArgumentReader("divisibleby", a, {"num"}).Int("num", 0)) == 0;
     }},
    {"eq", IsEqual},
    {"equalto", IsEqual},
    {"even", [](Runtime&, const Value& v, const Arguments&) { return Remainder(v, 2) == 0; }},
    {"false",
     [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kBool) && !v.AsBool(); }},
    {"filter", [](Runtime&, const Value& v,
                  const Arguments&) { return v.Is(Type::kString) && HasFilter(v.AsString()); }},
    {"float", [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kFloat); }},
    {"ge", IsAtLeast},
    {"greaterthan", IsGreater},
    {"gt", IsGreater},
    {"in",
     [](Runtime& r, const Value& v, const Arguments& a) { return Contains(r, Other("in", a), v); }},
    {"integer", [](Runtime&, const Value& v, const Arguments&) { return IsInteger(v); }},
    {"iterable", [](Runtime&, const Value& v, const Arguments&) { return IsIterable(v); }},
    {"le", IsAtMost},
    {"lessthan", IsLess},
    {"lower",
     [](Runtime&, const Value& v, const Arguments&) {
       return HasMethod(v, "islower") && CallMethod(v, "islower", {}).Truthy();
     }},
    {"lt", IsLess},
    {"mapping", [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kDict); }},
    {"ne", IsUnequal},
    {"none", [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kNone); }},
    {"number", [](Runtime&, const Value& v, const Arguments&) { return v.IsNumber(); }},
    {"odd", [](Runtime&, const Value& v, const Arguments&) { return Remainder(v, 2) != 0; }},
    {"sameas",
     [](Runtime&, const Value& v, const Arguments& a) { return IsSameAs(v, Other("sameas", a)); }},
    {"sequence", [](Runtime&, const Value& v, const Arguments&) { return IsIterable(v); }},
    {"string", [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kString); }},
    {"test", [](Runtime&, const Value& v,
                const Arguments&) { return v.Is(Type::kString) && HasTest(v.AsString()); }},
    {"true",
     [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kBool) && v.AsBool(); }},
    {"undefined",
     [](Runtime&, const Value& v, const Arguments&) { return v.Is(Type::kUndefined); }},
    {"upper",
     [](Runtime&, const Value& v, const Arguments&) {
       return HasMethod(v, "isupper") && CallMethod(v, "isupper", {}).Truthy();
     }},
};

class Namespace : public Object {
 public:
  std::string TypeName() const override { return "Namespace"; }
  Value Attribute(std::string_view name) const override {
    const auto at = values_.find(name);
    return at != values_.end() ? at->second
                               : Value::Undefined(StrCat("'", name, "' of a namespace"));
  }
  bool SetAttribute(std::string_view name, const Value& value) override {
    // A namespace inside a namespace could contain itself and would never be freed.
    FIREQ_CHECK(!value.Is(Type::kObject), kUnsupported, "an object in a namespace, as '", name,
                "', is not supported");
    values_.insert_or_assign(std::string(name), value);
    return true;
  }

 private:
  std::map<std::string, Value, std::less<>> values_;
};

class Function : public Object {
 public:
  using Body = Value (*)(Runtime& runtime, const Arguments& arguments);
  Function(std::string_view name, Runtime& runtime, Body body)
      : name_(name), runtime_(runtime), body_(body) {}
  std::string TypeName() const override { return "function " + name_; }
  bool callable() const override { return true; }
  Value Call(const Arguments& arguments) override { return body_(runtime_, arguments); }

 private:
  std::string name_;
  Runtime& runtime_;
  Body body_;
};

Value Range(Runtime& runtime, const Arguments& arguments) {
  constexpr int64_t kMaxRange = 100'000;  // as in Jinja's sandbox
  const ArgumentReader in("range", arguments, {"start", "stop", "step"});
  const bool only_stop = in.Get("stop") == nullptr;
  const int64_t start = only_stop ? 0 : in.Int("start", 0);
  const int64_t stop = only_stop ? in.Int("start", 0) : in.Int("stop", 0);
  const int64_t step = in.Int("step", 1);
  FIREQ_CHECK(step != 0, kInvalidArgument, "range: the step is 0");
  List out;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    out.push_back(Value::Int(i));
    FIREQ_CHECK(static_cast<int64_t>(out.size()) <= kMaxRange, kUnsupported, "range: more than ",
                kMaxRange, " items");
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  runtime.budget.Charge(static_cast<int64_t>(out.size()));
  return Value::MakeList(std::move(out));
}

Value MakeNamespace(Runtime&, const Arguments& arguments) {
  auto result = std::make_shared<Namespace>();
  for (const Value& value : arguments.positional) {
    FIREQ_CHECK(value.Is(Type::kDict), kInvalidArgument, "namespace needs a dict, got ",
                value.TypeName());
    for (const auto& [key, item] : value.AsDict()) result->SetAttribute(key.ToString(), item);
  }
  for (const auto& [name, value] : arguments.named) result->SetAttribute(name, value);
  return Value::Of(std::move(result));
}

Value MakeDict(Runtime&, const Arguments& arguments) {
  Items items;
  for (const Value& value : arguments.positional) {
    FIREQ_CHECK(value.Is(Type::kDict), kInvalidArgument, "dict needs a dict, got ",
                value.TypeName());
    items.insert(items.end(), value.AsDict().begin(), value.AsDict().end());
  }
  for (const auto& [name, value] : arguments.named) {
    items.emplace_back(Value::String(name), value);
  }
  return Value::Dict(std::move(items));
}

Value RaiseException(Runtime&, const Arguments& arguments) {
  const ArgumentReader in("raise_exception", arguments, {"message"});
  Throw(ErrorCode::kInvalidArgument,
        StrCat("the template refuses: ", in.Need("message").ToString()));
}

Value StrftimeNow(Runtime& runtime, const Arguments& arguments) {
  constexpr size_t kMaxTime = 4096;
  const std::string format =
      ArgumentReader("strftime_now", arguments, {"format"}).Need("format").ToString();
  std::tm local{};
  localtime_r(&runtime.now, &local);
  std::string out(kMaxTime, '\0');
  // A leading character tells an empty result from one that does not fit.
  const size_t size = std::strftime(out.data(), out.size(), ("x" + format).c_str(), &local);
  FIREQ_CHECK(size > 0, kUnsupported, "strftime_now: the result exceeds ", kMaxTime, " bytes");
  return Value::String(out.substr(1, size - 1));
}

}  // namespace

bool HasTest(std::string_view name) {
  return std::ranges::find(kTests, name, &TestRow::name) != std::end(kTests);
}

bool ApplyTest(Runtime& runtime, std::string_view name, const Value& value,
               const Arguments& arguments) {
  const TestRow* row = std::ranges::find(kTests, name, &TestRow::name);
  FIREQ_CHECK(row != std::end(kTests), kUnsupported, "the test '", name, "' is not supported");
  return row->test(runtime, value, arguments);
}

Value FindGlobal(Runtime& runtime, std::string_view name) {
  constexpr std::pair<std::string_view, Function::Body> kFunctions[] = {
      {"range", Range},
      {"namespace", MakeNamespace},
      {"dict", MakeDict},
      {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  for (const auto& [key, body] : kFunctions) {
    if (key == name) return Value::Of(std::make_shared<Function>(name, runtime, body));
  }
  for (const std::string_view known : {"cycler", "joiner", "lipsum", "self"}) {
    FIREQ_CHECK(name != known, kUnsupported, "'", name, "' is not supported");
  }
  return Value::Undefined(StrCat("'", name, "'"));
}

}  // namespace fireq::jinja
