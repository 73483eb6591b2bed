#include "fireq/text/jinja/evaluator.h"

#include "fireq/base/error.h"

namespace fireq::jinja {
namespace {

using Kind = Expr::Kind;
using Type = Value::Type;

}  // namespace

Evaluator::Deeper::Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
  FIREQ_CHECK(evaluator.depth_ < kMaxEvalDepth, kUnsupported,
              "expressions and macros nested more than ", kMaxEvalDepth, " deep");
  ++evaluator.depth_;
}

Value Evaluator::LookUp(const std::string& name) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    const auto at = scope->values.find(name);
    if (at != scope->values.end()) return at->second;
  }
  return FindGlobal(runtime_, name);
}

Value Evaluator::Eval(const Expr& expr) {
  const Deeper deeper(*this);
  line_ = expr.line;
  runtime_.budget.Charge(Budget::kNode);
  switch (expr.kind) {
    case Kind::kConstant:
      return expr.constant;
    case Kind::kName:
      return LookUp(expr.name);
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      return EvalItems(expr);
    case Kind::kAttribute:
      return GetAttribute(Eval(*expr.children[0]), expr.name);
    case Kind::kIndex: {
      const Value value = Eval(*expr.children[0]);
      if (value.Is(Type::kString)) runtime_.budget.Charge(value.weight());
      return GetItem(value, Eval(*expr.children[1]));
    }
    case Kind::kSlice:
      return EvalSlice(expr);
    case Kind::kCall: {
      const Value callee = Eval(*expr.children[0]);
      const Arguments arguments = EvalArguments(expr);
      runtime_.budget.Charge(callee.weight());
      return Call(callee, arguments);
    }
    case Kind::kFilter:
      return EvalFilter(expr, Eval(*expr.children[0]));
    case Kind::kTest:
      return Value::Bool(
          ApplyTest(runtime_, expr.name, Eval(*expr.children[0]), EvalArguments(expr)));
    case Kind::kUnary:
      return EvalUnary(expr);
    case Kind::kBinary:
      return EvalBinary(expr);
    case Kind::kCompare:
      return EvalCompare(expr);
    case Kind::kConcat:
      return EvalConcat(expr);
    case Kind::kConditional:
      if (Eval(*expr.children[1]).Truthy()) return Eval(*expr.children[0]);
      return expr.children[2] != nullptr ? Eval(*expr.children[2])
                                         : Value::Undefined("the value of an if without else");
  }
  return {};
}

Arguments Evaluator::EvalArguments(const Expr& call) {
  Arguments arguments;
  for (size_t i = 1; i < call.children.size(); ++i) {
    arguments.positional.push_back(Eval(*call.children[i]));
    runtime_.budget.Charge(arguments.positional.back().weight());
  }
  for (const auto& [name, value] : call.named) {
    arguments.named.emplace_back(name, Eval(*value));
    runtime_.budget.Charge(arguments.named.back().second.weight());
  }
  return arguments;
}

Value Evaluator::EvalItems(const Expr& expr) {
  List values;
  for (const ExprPtr& child : expr.children) {
    values.push_back(Eval(*child));
    runtime_.budget.Charge(1);
  }
  if (expr.kind == Kind::kList) return Value::MakeList(std::move(values));
  if (expr.kind == Kind::kTuple) return Value::Tuple(std::move(values));
  Items items;
  for (size_t i = 0; i + 1 < values.size(); i += 2) {
    items.emplace_back(std::move(values[i]), std::move(values[i + 1]));
  }
  return Value::Dict(std::move(items));
}

Value Evaluator::EvalFilter(const Expr& expr, const Value& input) {
  const Arguments arguments = EvalArguments(expr);
  line_ = expr.line;
  return ApplyFilter(runtime_, expr.name, input, arguments);
}

Value Evaluator::EvalFilterChain(const Expr& chain, const Value& input) {
  const Deeper deeper(*this);
  FIREQ_CHECK(chain.kind == Kind::kFilter, kUnsupported, "only filters can follow here");
  const Expr* inner = chain.children[0].get();
  return EvalFilter(chain, inner == nullptr ? input : EvalFilterChain(*inner, input));
}

Value Evaluator::EvalUnary(const Expr& expr) {
  const Value value = Eval(*expr.children[0]);
  if (expr.name == "not") return Value::Bool(!value.Truthy());
  // 0 - 0.0 would lose the sign.
  if (expr.name == "-" && value.Is(Type::kFloat)) return Value::Float(-value.AsFloat());
  return Arithmetic(runtime_, expr.name, Value::Int(0), value);
}

Value Evaluator::EvalBinary(const Expr& expr) {
  Value left = Eval(*expr.children[0]);
  if (expr.name == "and") return left.Truthy() ? Eval(*expr.children[1]) : left;
  if (expr.name == "or") return left.Truthy() ? left : Eval(*expr.children[1]);
  const Value right = Eval(*expr.children[1]);
  line_ = expr.line;
  return Arithmetic(runtime_, expr.name, left, right);
}

bool Evaluator::Compare(const std::string& op, const Value& left, const Value& right) {
  if (op == "in") return Contains(runtime_, right, left);
  if (op == "not in") return !Contains(runtime_, right, left);
  runtime_.budget.Charge(std::min(left.weight(), right.weight()));
  if (op == "==") return Equal(left, right);
  if (op == "!=") return !Equal(left, right);
  if (op == "<") return Less(left, right);
  if (op == ">") return Less(right, left);
  return op == "<=" ? !Less(right, left) : !Less(left, right);
}

Value Evaluator::EvalCompare(const Expr& expr) {
  Value left = Eval(*expr.children[0]);
  for (size_t i = 0; i < expr.names.size(); ++i) {
    Value right = Eval(*expr.children[i + 1]);
    if (!Compare(expr.names[i], left, right)) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Value Evaluator::EvalConcat(const Expr& expr) {
  std::string text;
  for (const ExprPtr& child : expr.children) {
    const Value part = Eval(*child);
    runtime_.budget.Charge(part.weight());
    text += part.ToString();
  }
  return Value::String(std::move(text));
}

Value Evaluator::EvalSlice(const Expr& expr) {
  const auto part = [&](size_t i) {
    return expr.children[i] != nullptr ? Eval(*expr.children[i]) : Value::None();
  };
  const Value value = Eval(*expr.children[0]);
  const Value start = part(1);
  const Value stop = part(2);
  return Slice(runtime_, value, start, stop, part(3));
}

}  // namespace fireq::jinja
