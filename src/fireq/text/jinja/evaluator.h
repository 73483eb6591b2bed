// Values of expressions in a scope.
#pragma once

#include <ctime>
#include <functional>
#include <map>
#include <string>

#include "fireq/text/jinja/ast.h"
#include "fireq/text/jinja/runtime.h"

namespace fireq::jinja {

// Variables; those of `parent` show through. Scopes live on the stack of the interpreter.
struct Scope {
  Scope* parent = nullptr;
  std::map<std::string, Value, std::less<>> values;
};

// Nested evaluations and macro calls; well inside a thread's stack even with sanitizers.
inline constexpr int kMaxEvalDepth = 400;

class Evaluator {
 public:
  explicit Evaluator(std::time_t now) { runtime_.now = now; }
  // Where evaluation is, or failed.
  int line() const { return line_; }

 protected:
  // Counts the recursion of the interpreter.
  class Deeper {
   public:
    explicit Deeper(Evaluator& evaluator);
    ~Deeper() { --evaluator_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Evaluator& evaluator_;
  };

  Value Eval(const Expr& expr);
  Arguments EvalArguments(const Expr& call);
  // A chain of filters whose innermost has no operand, applied to `input`.
  Value EvalFilterChain(const Expr& chain, const Value& input);

  Runtime runtime_;
  Scope* scope_ = nullptr;
  int line_ = 0;

 private:
  Value LookUp(const std::string& name);
  Value EvalItems(const Expr& expr);
  Value EvalFilter(const Expr& expr, const Value& input);
  Value EvalUnary(const Expr& expr);
  Value EvalBinary(const Expr& expr);
  Value EvalCompare(const Expr& expr);
  Value EvalConcat(const Expr& expr);
  Value EvalSlice(const Expr& expr);
  bool Compare(const std::string& op, const Value& left, const Value& right);

  int depth_ = 0;
};

}  // namespace fireq::jinja
