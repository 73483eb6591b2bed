#include "fireq/text/jinja/interpreter.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/text/jinja/evaluator.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;
class Macro;

// What "loop" is inside a for statement.
class Loop : public Object {
 public:
  Loop(const List& items, int64_t depth0, std::function<Value(const Value&)> recurse)
      : items_(items), depth0_(depth0), recurse_(std::move(recurse)) {}
  void MoveTo(size_t index) { index_ = index; }

  std::string TypeName() const override { return "loop"; }
  bool callable() const override { return true; }
  Value Call(const Arguments& arguments) override {
    FIREQ_CHECK(recurse_ != nullptr, kInvalidArgument, "this loop is not recursive");
    return recurse_(ArgumentReader("loop", arguments, {"iterable"}).Need("iterable"));
  }
  Value Attribute(std::string_view name) const override;

  // The arguments of the last call of loop.changed.
  bool Changed(const List& values) {
    const bool changed = !seen_ || !std::ranges::equal(values, last_, Equal);
    seen_ = true;
    last_ = values;
    return changed;
  }
  size_t index() const { return index_; }

 private:
  const List& items_;
  int64_t depth0_;
  std::function<Value(const Value&)> recurse_;
  size_t index_ = 0;
  bool seen_ = false;
  List last_;
};

// loop.cycle and loop.changed. Valid while their loop runs, like the loop itself.
class LoopMethod : public Object {
 public:
  LoopMethod(Loop& loop, bool cycles) : loop_(loop), cycles_(cycles) {}
  std::string TypeName() const override { return "loop method"; }
  bool callable() const override { return true; }
  Value Call(const Arguments& arguments) override {
    const List& values = arguments.positional;
    if (!cycles_) return Value::Bool(loop_.Changed(values));
    FIREQ_CHECK(!values.empty(), kInvalidArgument, "loop.cycle needs values");
    return values[loop_.index() % values.size()];
  }

 private:
  Loop& loop_;
  bool cycles_;
};

Value Loop::Attribute(std::string_view name) const {
  const auto size = static_cast<int64_t>(items_.size());
  const auto at = static_cast<int64_t>(index_);
  if (name == "index") return Value::Int(at + 1);
  if (name == "index0") return Value::Int(at);
  if (name == "revindex") return Value::Int(size - at);
  if (name == "revindex0") return Value::Int(size - at - 1);
  if (name == "first") return Value::Bool(at == 0);
  if (name == "last") return Value::Bool(at == size - 1);
  if (name == "length") return Value::Int(size);
  if (name == "depth") return Value::Int(depth0_ + 1);
  if (name == "depth0") return Value::Int(depth0_);
  if (name == "previtem" && at > 0) return items_[index_ - 1];
  if (name == "nextitem" && at + 1 < size) return items_[index_ + 1];
  if (name == "cycle" || name == "changed") {
    return Value::Of(std::make_shared<LoopMethod>(const_cast<Loop&>(*this), name == "cycle"));
  }
  return Value::Undefined(StrCat("'", name, "' of loop"));
}

enum class Flow { kNormal, kBreak, kContinue };

class Interpreter : public Evaluator {
 public:
  explicit Interpreter(std::time_t now) : Evaluator(now) {}

  std::string Run(const Body& body, const Items& variables) {
    Scope scope;
    for (const auto& [name, value] : variables) scope.values[name.AsString()] = value;
    scope_ = &scope;
    return Capture(body);
  }

 private:
  friend class Macro;

  // Moves into a scope inside `parent` for the life of this object.
  class Enter {
   public:
    Enter(Interpreter& interpreter, Scope* parent)
        : interpreter_(interpreter), outer_(interpreter.scope_) {
      scope_.parent = parent;
      interpreter.scope_ = &scope_;
    }
    ~Enter() { interpreter_.scope_ = outer_; }
    Enter(const Enter&) = delete;
    Enter& operator=(const Enter&) = delete;
    Scope& scope() { return scope_; }

   private:
    Interpreter& interpreter_;
    Scope* outer_;
    Scope scope_;
  };

  void Print(std::string_view text) {
    runtime_.budget.Charge(static_cast<int64_t>(text.size()));
    FIREQ_CHECK(out_->size() + text.size() <= kMaxOutputBytes, kUnsupported, "the output exceeds ",
                kMaxOutputBytes, " bytes");
    out_->append(text);
  }

  // What `body` prints.
  std::string Capture(const Body& body) {
    std::string text;
    std::string* outer = std::exchange(out_, &text);
    try {
      Run(body);
    } catch (...) {
      out_ = outer;
      throw;
    }
    out_ = outer;
    return text;
  }

  Flow Run(const Body& body) {
    const Deeper deeper(*this);
    for (const auto& stmt : body) {
      const Flow flow = Run(*stmt);
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  Flow Run(const Stmt& stmt);
  Flow RunIf(const Stmt& stmt);
  void RunFor(const Stmt& stmt, const Value& iterable, int64_t depth0);
  void RunCallBlock(const Stmt& stmt);
  void RunWith(const Stmt& stmt);
  Value CallMacro(const Stmt& stmt, Scope* definition, const Arguments& arguments,
                  const Value* caller);
  void Assign(const Expr& target, const Value& value);

  std::string* out_ = nullptr;
};

// A macro, or the body of a call block as its caller().
class Macro : public Object {
 public:
  Macro(Interpreter& interpreter, const Stmt& stmt, Scope* definition)
      : interpreter_(interpreter), stmt_(stmt), definition_(definition) {}
  std::string TypeName() const override { return "Macro"; }
  bool callable() const override { return true; }
  Value Call(const Arguments& arguments) override {
    return interpreter_.CallMacro(stmt_, definition_, arguments, nullptr);
  }
  Value CallWithCaller(const Arguments& arguments, const Value& caller) {
    return interpreter_.CallMacro(stmt_, definition_, arguments, &caller);
  }
  Value Attribute(std::string_view name) const override {
    if (name == "name") return Value::String(stmt_.text);
    return Value::Undefined(StrCat("'", name, "' of a macro"));
  }

 private:
  Interpreter& interpreter_;
  const Stmt& stmt_;
  Scope* definition_;
};

Flow Interpreter::Run(const Stmt& stmt) {
  line_ = stmt.line;
  runtime_.budget.Charge(Budget::kNode);
  switch (stmt.kind) {
    case Stmt::Kind::kData:
      Print(stmt.text);
      break;
    case Stmt::Kind::kPrint:
      Print(Eval(*stmt.value).ToString());
      break;
    case Stmt::Kind::kIf:
      return RunIf(stmt);
    case Stmt::Kind::kFor:
      RunFor(stmt, Eval(*stmt.value), 0);
      break;
    case Stmt::Kind::kSet:
      Assign(*stmt.target, Eval(*stmt.value));
      break;
    case Stmt::Kind::kSetBlock: {
      const Value text = Value::String(Capture(stmt.body));
      Assign(*stmt.target, stmt.value == nullptr ? text : EvalFilterChain(*stmt.value, text));
      break;
    }
    case Stmt::Kind::kMacro:
      scope_->values[stmt.text] = Value::Of(std::make_shared<Macro>(*this, stmt, scope_));
      break;
    case Stmt::Kind::kCall:
      RunCallBlock(stmt);
      break;
    case Stmt::Kind::kFilter:
      Print(EvalFilterChain(*stmt.value, Value::String(Capture(stmt.body))).ToString());
      break;
    case Stmt::Kind::kWith:
      RunWith(stmt);
      break;
    case Stmt::Kind::kScope:
      return Run(stmt.body);
    case Stmt::Kind::kBreak:
      return Flow::kBreak;
    case Stmt::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Flow Interpreter::RunIf(const Stmt& stmt) {
  for (const auto& [condition, body] : stmt.branches) {
    if (Eval(*condition).Truthy()) return Run(body);
  }
  return Run(stmt.otherwise);
}

void Interpreter::RunFor(const Stmt& stmt, const Value& iterable, int64_t depth0) {
  const Deeper deeper(*this);
  List items = Iterate(runtime_, iterable);
  Scope* const outer = scope_;
  if (stmt.condition != nullptr) {
    List kept;
    for (const Value& item : items) {
      runtime_.budget.Charge(Budget::kIteration);
      const Enter enter(*this, outer);
      Assign(*stmt.target, item);
      if (Eval(*stmt.condition).Truthy()) kept.push_back(item);
    }
    items = std::move(kept);
  }
  std::function<Value(const Value&)> recurse;
  if (stmt.recursive) {
    recurse = [&, depth0](const Value& inner) {
      std::string text;
      std::string* const printed = std::exchange(out_, &text);
      Scope* const calling = std::exchange(scope_, outer);
      RunFor(stmt, inner, depth0 + 1);
      scope_ = calling;
      out_ = printed;
      return Value::String(std::move(text));
    };
  }
  // Jinja's else is for loops of which no body ran to its end: break and continue leave it early.
  bool ran_whole = false;
  const auto loop = std::make_shared<Loop>(items, depth0, std::move(recurse));
  for (size_t i = 0; i < items.size(); ++i) {
    runtime_.budget.Charge(Budget::kIteration);
    Enter enter(*this, outer);
    loop->MoveTo(i);
    enter.scope().values["loop"] = Value::Of(loop);
    Assign(*stmt.target, items[i]);
    const Flow flow = Run(stmt.body);
    if (flow == Flow::kBreak) break;
    ran_whole |= flow == Flow::kNormal;
  }
  if (!ran_whole) Run(stmt.otherwise);
}

void Interpreter::RunCallBlock(const Stmt& stmt) {
  const Expr& call = *stmt.value;
  const Value callee = Eval(*call.children[0]);
  auto* macro = callee.Is(Type::kObject) ? dynamic_cast<Macro*>(callee.AsObject()) : nullptr;
  FIREQ_CHECK(macro != nullptr, kInvalidArgument, "a call block needs a macro, got ",
              callee.TypeName());
  const Value caller = Value::Of(std::make_shared<Macro>(*this, stmt, scope_));
  Print(macro->CallWithCaller(EvalArguments(call), caller).ToString());
}

void Interpreter::RunWith(const Stmt& stmt) {
  Scope* const outer = scope_;
  List values;
  for (const auto& [target, value] : stmt.assignments) values.push_back(Eval(*value));
  const Enter enter(*this, outer);
  for (size_t i = 0; i < values.size(); ++i) Assign(*stmt.assignments[i].first, values[i]);
  Run(stmt.body);
}

Value Interpreter::CallMacro(const Stmt& stmt, Scope* definition, const Arguments& arguments,
                             const Value* caller) {
  const Deeper deeper(*this);
  const std::string name = stmt.text.empty() ? "caller" : stmt.text;
  const size_t placed = std::min(arguments.positional.size(), stmt.parameters.size());
  FIREQ_CHECK(placed == arguments.positional.size() || stmt.uses_varargs, kInvalidArgument,
              "macro '", name, "' takes at most ", stmt.parameters.size(), " arguments, got ",
              arguments.positional.size());
  runtime_.budget.Charge(Budget::kIteration);
  Enter enter(*this, definition);
  std::map<std::string, Value, std::less<>>& values = enter.scope().values;
  for (size_t i = 0; i < placed; ++i) values[stmt.parameters[i].name] = arguments.positional[i];
  Items others;
  for (const auto& [key, value] : arguments.named) {
    const bool known =
        std::ranges::find(stmt.parameters, key, &Parameter::name) != stmt.parameters.end();
    FIREQ_CHECK(known ? !values.contains(key) : stmt.uses_kwargs, kInvalidArgument, "macro '", name,
                "' has no use for the argument '", key, "'");
    known ? void(values[key] = value) : void(others.emplace_back(Value::String(key), value));
  }
  for (const Parameter& parameter : stmt.parameters) {
    if (values.contains(parameter.name)) continue;
    const Value fallback = parameter.fallback != nullptr
                               ? Eval(*parameter.fallback)
                               : Value::Undefined(StrCat("parameter '", parameter.name, "'"));
    values[parameter.name] = fallback;
  }
  if (stmt.uses_varargs) {
    values["varargs"] = Value::Tuple({arguments.positional.begin() + static_cast<ptrdiff_t>(placed),
                                      arguments.positional.end()});
  }
  if (stmt.uses_kwargs) values["kwargs"] = Value::Dict(std::move(others));
  if (caller != nullptr) values["caller"] = *caller;
  return Value::String(Capture(stmt.body));
}

void Interpreter::Assign(const Expr& target, const Value& value) {
  if (target.kind == Expr::Kind::kName) {
    scope_->values[target.name] = value;
  } else if (target.kind == Expr::Kind::kAttribute) {
    const Value object = Eval(*target.children[0]);
    FIREQ_CHECK(object.Is(Type::kObject) && object.AsObject()->SetAttribute(target.name, value),
                kInvalidArgument, "cannot assign to '", target.name, "' of a value of type ",
                object.TypeName(), "; only namespaces can change");
  } else {
    const List items = Iterate(runtime_, value);
    FIREQ_CHECK(items.size() == target.children.size(), kInvalidArgument, items.size(),
                " values for ", target.children.size(), " names");
    for (size_t i = 0; i < items.size(); ++i) Assign(*target.children[i], items[i]);
  }
}

}  // namespace

std::string Render(const Body& body, const Items& variables, std::time_t now) {
  Interpreter interpreter(now);
  try {
    return interpreter.Run(body, variables);
  } catch (const Error& error) {
    Throw(error.code(), StrCat("chat template, line ", interpreter.line(), ": ", error.what()));
  }
}

}  // namespace fireq::jinja
