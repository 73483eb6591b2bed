#include "fireq/text/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>

#include "fireq/base/error.h"

namespace fireq::jinja {
namespace {

std::string Describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kBlockEnd:
    case TokenKind::kVariableEnd:
      return "the end of the tag";
    case TokenKind::kData:
      return "text";
    default:
      return "'" + token.text.substr(0, 40) + "'";
  }
}

// Counts the recursion of the parser itself.
class Nested {
 public:
  Nested(int& level, int line) : level_(level) {
    FIREQ_CHECK(++level_ <= kMaxTreeDepth, kUnsupported, "chat template, line ", line,
                ": nested more than ", kMaxTreeDepth, " deep");
  }
  ~Nested() { --level_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;

 private:
  int& level_;
};

}  // namespace

bool ExpressionParser::SeesOperator(std::string_view op) const {
  return Current().kind == TokenKind::kOperator && Current().text == op;
}
bool ExpressionParser::SeesName(std::string_view name) const {
  return Current().kind == TokenKind::kName && Current().text == name;
}
bool ExpressionParser::TakeOperator(std::string_view op) {
  const bool sees = SeesOperator(op);
  if (sees) Next();
  return sees;
}
bool ExpressionParser::TakeName(std::string_view name) {
  const bool sees = SeesName(name);
  if (sees) Next();
  return sees;
}
void ExpressionParser::NeedOperator(std::string_view op) {
  if (!TakeOperator(op)) Fail("'" + std::string(op) + "'");
}
std::string ExpressionParser::NeedIdentifier() {
  if (Current().kind != TokenKind::kName) Fail("a name");
  return Next().text;
}
void ExpressionParser::NeedBlockEnd() {
  if (Current().kind != TokenKind::kBlockEnd) Fail("'%}'");
  Next();
}
void ExpressionParser::Fail(std::string_view expected) const {
  Throw(ErrorCode::kCorrupt, StrCat("chat template, line ", Current().line, ": expected ", expected,
                                    ", got ", Describe(Current())));
}

ExprPtr ExpressionParser::Make(Expr::Kind kind, int line, std::string name) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->name = std::move(name);
  return expr;
}

void ExpressionParser::Adopt(Expr& parent, ExprPtr child) {
  if (child != nullptr) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    FIREQ_CHECK(parent.depth <= kMaxTreeDepth, kUnsupported, "chat template, line ", parent.line,
                ": an expression nested more than ", kMaxTreeDepth, " deep");
  }
  parent.children.push_back(std::move(child));
}

ExprPtr ExpressionParser::Binary(ExprPtr left, std::string op, ExprPtr right) {
  ExprPtr expr = Make(Expr::Kind::kBinary, left->line, std::move(op));
  Adopt(*expr, std::move(left));
  Adopt(*expr, std::move(right));
  return expr;
}

ExprPtr ExpressionParser::ParseExpression(Conditionals conditionals) {
  const Nested nested(nesting_, Current().line);
  ExprPtr value = ParseOr();
  while (conditionals == Conditionals::kAllowed && TakeName("if")) {
    ExprPtr expr = Make(Expr::Kind::kConditional, value->line);
    ExprPtr condition = ParseOr();
    Adopt(*expr, std::move(value));
    Adopt(*expr, std::move(condition));
    Adopt(*expr, TakeName("else") ? ParseExpression() : nullptr);
    value = std::move(expr);
  }
  return value;
}

ExprPtr ExpressionParser::ParseTuple(Conditionals conditionals) {
  const int line = Current().line;
  ExprPtr first = ParseExpression(conditionals);
  if (!SeesOperator(",")) return first;
  ExprPtr tuple = Make(Expr::Kind::kTuple, line);
  Adopt(*tuple, std::move(first));
  while (TakeOperator(",")) {
    const TokenKind kind = Current().kind;
    if (kind == TokenKind::kBlockEnd || kind == TokenKind::kVariableEnd || SeesOperator(")")) break;
    Adopt(*tuple, ParseExpression(conditionals));
  }
  return tuple;
}

ExprPtr ExpressionParser::ParseOr() {
  ExprPtr left = ParseAnd();
  while (TakeName("or")) left = Binary(std::move(left), "or", ParseAnd());
  return left;
}

ExprPtr ExpressionParser::ParseAnd() {
  ExprPtr left = ParseNot();
  while (TakeName("and")) left = Binary(std::move(left), "and", ParseNot());
  return left;
}

ExprPtr ExpressionParser::ParseNot() {
  const Nested nested(nesting_, Current().line);
  const int line = Current().line;
  if (!TakeName("not")) return ParseCompare();
  ExprPtr expr = Make(Expr::Kind::kUnary, line, "not");
  Adopt(*expr, ParseNot());
  return expr;
}

ExprPtr ExpressionParser::ParseCompare() {
  constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
  ExprPtr expr = ParseSum();
  for (bool is_first = true;; is_first = false) {
    std::string op;
    if (Current().kind == TokenKind::kOperator &&
        std::ranges::find(kOperators, Current().text) != std::end(kOperators)) {
      op = Next().text;
    } else if (TakeName("in")) {
      op = "in";
    } else if (SeesName("not") && at_ + 1 < tokens_.size() &&
               tokens_[at_ + 1].kind == TokenKind::kName && tokens_[at_ + 1].text == "in") {
      Next();
      Next();
      op = "not in";
    } else {
      return expr;
    }
    if (is_first) {
      ExprPtr compare = Make(Expr::Kind::kCompare, expr->line);
      Adopt(*compare, std::move(expr));
      expr = std::move(compare);
    }
    expr->names.push_back(op);
    Adopt(*expr, ParseSum());
  }
}

ExprPtr ExpressionParser::ParseSum() {
  ExprPtr left = ParseConcat();
  while (SeesOperator("+") || SeesOperator("-")) {
    const std::string op = Next().text;
    left = Binary(std::move(left), op, ParseConcat());
  }
  return left;
}

ExprPtr ExpressionParser::ParseConcat() {
  ExprPtr first = ParseProduct();
  if (!SeesOperator("~")) return first;
  ExprPtr expr = Make(Expr::Kind::kConcat, first->line);
  Adopt(*expr, std::move(first));
  while (TakeOperator("~")) Adopt(*expr, ParseProduct());
  return expr;
}

ExprPtr ExpressionParser::ParseProduct() {
  ExprPtr left = ParsePower();
  while (SeesOperator("*") || SeesOperator("/") || SeesOperator("//") || SeesOperator("%")) {
    const std::string op = Next().text;
    left = Binary(std::move(left), op, ParsePower());
  }
  return left;
}

ExprPtr ExpressionParser::ParsePower() {
  ExprPtr left = ParseUnary(true);
  while (TakeOperator("**")) left = Binary(std::move(left), "**", ParseUnary(true));
  return left;
}

ExprPtr ExpressionParser::ParseUnary(bool with_filters) {
  const Nested nested(nesting_, Current().line);
  const int line = Current().line;
  ExprPtr value;
  if (SeesOperator("-") || SeesOperator("+")) {
    value = Make(Expr::Kind::kUnary, line, Next().text);
    Adopt(*value, ParseUnary(false));
  } else {
    value = ParsePrimary();
  }
  value = ParsePostfix(std::move(value));
  return with_filters ? ParseFilters(std::move(value)) : std::move(value);
}

ExprPtr ExpressionParser::ParsePrimary() {
  switch (Current().kind) {
    case TokenKind::kName:
      return ParseName();
    case TokenKind::kString:
      return ParseStrings();
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return ParseNumber();
    default:
      break;
  }
  if (SeesOperator("(")) return ParseParentheses();
  if (SeesOperator("[")) return ParseList();
  if (SeesOperator("{")) return ParseDict();
  Fail("an expression");
}

ExprPtr ExpressionParser::ParseName() {
  const Token& token = Next();
  const std::string& name = token.text;
  ExprPtr expr = Make(Expr::Kind::kConstant, token.line);
  if (name == "true" || name == "True") {
    expr->constant = Value::Bool(true);
  } else if (name == "false" || name == "False") {
    expr->constant = Value::Bool(false);
  } else if (name == "none" || name == "None") {
    expr->constant = Value::None();
  } else {
    expr->kind = Expr::Kind::kName;
    saw_varargs_ |= name == "varargs";
    saw_kwargs_ |= name == "kwargs";
    expr->name = name;
  }
  return expr;
}

ExprPtr ExpressionParser::ParseNumber() {
  const Token& token = Next();
  ExprPtr expr = Make(Expr::Kind::kConstant, token.line);
  const char* begin = token.text.data();
  const char* end = begin + token.text.size();
  int64_t integer = 0;
  double real = 0;
  const bool is_float = token.kind == TokenKind::kFloat;
  const auto result =
      is_float ? std::from_chars(begin, end, real) : std::from_chars(begin, end, integer);
  FIREQ_CHECK(result.ec == std::errc() && result.ptr == end, kUnsupported, "chat template, line ",
              token.line, ": the number ", token.text, " is out of range");
  expr->constant = is_float ? Value::Float(real) : Value::Int(integer);
  return expr;
}

ExprPtr ExpressionParser::ParseStrings() {
  ExprPtr expr = Make(Expr::Kind::kConstant, Current().line);
  std::string text;
  while (Current().kind == TokenKind::kString) text += Next().text;
  expr->constant = Value::String(std::move(text));
  return expr;
}

ExprPtr ExpressionParser::ParseParentheses() {
  const int line = Current().line;
  NeedOperator("(");
  if (TakeOperator(")")) return Make(Expr::Kind::kTuple, line);
  ExprPtr value = ParseTuple();
  NeedOperator(")");
  return value;
}

ExprPtr ExpressionParser::ParseList() {
  ExprPtr list = Make(Expr::Kind::kList, Current().line);
  NeedOperator("[");
  while (!TakeOperator("]")) {
    Adopt(*list, ParseExpression());
    if (!SeesOperator("]")) NeedOperator(",");
  }
  return list;
}

ExprPtr ExpressionParser::ParseDict() {
  ExprPtr dict = Make(Expr::Kind::kDict, Current().line);
  NeedOperator("{");
  while (!TakeOperator("}")) {
    Adopt(*dict, ParseExpression());
    NeedOperator(":");
    Adopt(*dict, ParseExpression());
    if (!SeesOperator("}")) NeedOperator(",");
  }
  return dict;
}

ExprPtr ExpressionParser::ParsePostfix(ExprPtr value) {
  while (true) {
    if (TakeOperator(".")) {
      const Token token = Next();
      const bool is_number = token.kind == TokenKind::kInteger;
      if (!is_number && token.kind != TokenKind::kName) {
        Fail("a name after '.'");
      }
      ExprPtr expr =
          Make(is_number ? Expr::Kind::kIndex : Expr::Kind::kAttribute, token.line, token.text);
      Adopt(*expr, std::move(value));
      if (is_number) {
        --at_;
        Adopt(*expr, ParseNumber());
      }
      value = std::move(expr);
    } else if (SeesOperator("[")) {
      value = ParseSubscript(std::move(value));
    } else if (SeesOperator("(")) {
      value = ParseCall(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExpressionParser::ParseSubscript(ExprPtr value) {
  const int line = Current().line;
  NeedOperator("[");
  ExprPtr first = SeesOperator(":") ? nullptr : ParseTuple();
  if (!SeesOperator(":")) {
    ExprPtr index = Make(Expr::Kind::kIndex, line);
    Adopt(*index, std::move(value));
    Adopt(*index, std::move(first));
    NeedOperator("]");
    return index;
  }
  ExprPtr slice = Make(Expr::Kind::kSlice, line);
  Adopt(*slice, std::move(value));
  Adopt(*slice, std::move(first));
  for (int part = 0; part < 2; ++part) {
    const bool given = TakeOperator(":") && !SeesOperator(":") && !SeesOperator("]");
    Adopt(*slice, given ? ParseExpression() : nullptr);
  }
  NeedOperator("]");
  return slice;
}

ExprPtr ExpressionParser::ParseCall(ExprPtr callee) {
  ExprPtr call = Make(Expr::Kind::kCall, Current().line);
  Adopt(*call, std::move(callee));
  ParseArguments(*call);
  return call;
}

void ExpressionParser::ParseArguments(Expr& call) {
  NeedOperator("(");
  while (!TakeOperator(")")) {
    FIREQ_CHECK(!SeesOperator("*") && !SeesOperator("**"), kUnsupported, "chat template, line ",
                Current().line, ": ", Current().text, "arguments in a call are not supported");
    const bool named = Current().kind == TokenKind::kName && at_ + 1 < tokens_.size() &&
                       tokens_[at_ + 1].kind == TokenKind::kOperator &&
                       tokens_[at_ + 1].text == "=";
    if (named) {
      const std::string name = Next().text;
      Next();
      ExprPtr value = ParseExpression();
      call.depth = std::max(call.depth, value->depth + 1);
      call.named.emplace_back(name, std::move(value));
    } else {
      if (!call.named.empty()) Fail("a named argument");
      Adopt(call, ParseExpression());
    }
    if (!SeesOperator(")")) NeedOperator(",");
  }
}

ExprPtr ExpressionParser::ParseFilters(ExprPtr value) {
  while (true) {
    if (TakeOperator("|")) {
      value = ParseFilter(std::move(value));
    } else if (value != nullptr && TakeName("is")) {
      value = ParseTest(std::move(value));
    } else if (value != nullptr && SeesOperator("(")) {
      value = ParseCall(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExpressionParser::ParseFilter(ExprPtr value) {
  const int line = Current().line;
  std::string name = NeedIdentifier();
  while (TakeOperator(".")) name += "." + NeedIdentifier();
  ExprPtr filter = Make(Expr::Kind::kFilter, line, name);
  Adopt(*filter, std::move(value));
  if (SeesOperator("(")) ParseArguments(*filter);
  return filter;
}

bool ExpressionParser::SeesTestArgument() const {
  const Token& token = Current();
  if (token.kind == TokenKind::kName) {
    return token.text != "else" && token.text != "or" && token.text != "and" &&
           token.text != "is" && token.text != "if" && token.text != "in" && token.text != "not";
  }
  return token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
         token.kind == TokenKind::kFloat || SeesOperator("[") || SeesOperator("{");
}

ExprPtr ExpressionParser::ParseTest(ExprPtr value) {
  const int line = Current().line;
  const bool negated = TakeName("not");
  ExprPtr test = Make(Expr::Kind::kTest, line, NeedIdentifier());
  Adopt(*test, std::move(value));
  if (SeesOperator("(")) {
    ParseArguments(*test);
  } else if (SeesTestArgument()) {
    Adopt(*test, ParsePostfix(ParsePrimary()));
  }
  if (!negated) return test;
  ExprPtr expr = Make(Expr::Kind::kUnary, line, "not");
  Adopt(*expr, std::move(test));
  return expr;
}

}  // namespace fireq::jinja
