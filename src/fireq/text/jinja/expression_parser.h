// The expression half of the parser: a cursor over tokens and Jinja's precedence ladder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fireq/text/jinja/ast.h"
#include "fireq/text/jinja/lexer.h"

namespace fireq::jinja {

inline constexpr int kMaxTreeDepth = 200;

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& Current() const { return tokens_[at_]; }
  const Token& Next() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  bool SeesOperator(std::string_view op) const;
  bool SeesName(std::string_view name) const;
  bool TakeOperator(std::string_view op);
  bool TakeName(std::string_view name);
  void NeedOperator(std::string_view op);
  std::string NeedIdentifier();
  void NeedBlockEnd();
  [[noreturn]] void Fail(std::string_view expected) const;

  enum class Conditionals { kAllowed, kNotAllowed };
  ExprPtr ParseExpression(Conditionals conditionals = Conditionals::kAllowed);
  // One expression, or several with commas between: a tuple.
  ExprPtr ParseTuple(Conditionals conditionals = Conditionals::kAllowed);
  // The filters after an expression; `value` may be null (a filter block).
  ExprPtr ParseFilters(ExprPtr value);
  void ParseArguments(Expr& call);

  ExprPtr Make(Expr::Kind kind, int line, std::string name = "");
  // Appends `child` and counts its depth; throws when the tree gets too deep.
  void Adopt(Expr& parent, ExprPtr child);

  int nesting_ = 0;
  // Whether these names have been read since somebody cleared the flags.
  bool saw_varargs_ = false, saw_kwargs_ = false;

 private:
  ExprPtr Binary(ExprPtr left, std::string op, ExprPtr right);
  ExprPtr ParseOr();
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseCompare();
  ExprPtr ParseSum();
  ExprPtr ParseConcat();
  ExprPtr ParseProduct();
  ExprPtr ParsePower();
  ExprPtr ParseUnary(bool with_filters);
  ExprPtr ParsePrimary();
  ExprPtr ParseName();
  ExprPtr ParseNumber();
  ExprPtr ParseStrings();
  ExprPtr ParseParentheses();
  ExprPtr ParseList();
  ExprPtr ParseDict();
  ExprPtr ParsePostfix(ExprPtr value);
  ExprPtr ParseSubscript(ExprPtr value);
  ExprPtr ParseFilter(ExprPtr value);
  ExprPtr ParseTest(ExprPtr value);
  ExprPtr ParseCall(ExprPtr callee);
  bool SeesTestArgument() const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace fireq::jinja
