#include "fireq/text/jinja/parser.h"

#include <algorithm>
#include <iterator>

#include "fireq/base/error.h"
#include "fireq/text/jinja/expression_parser.h"

namespace fireq::jinja {
namespace {

using Names = std::vector<std::string_view>;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body ParseAll() { return ParseBody({}, 0); }

 private:
  using StmtPtr = std::unique_ptr<Stmt>;

  StmtPtr MakeStmt(Stmt::Kind kind) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = Current().line;
    return stmt;
  }

  // Statements up to a block that begins with one of `ends`; the cursor is then on that name.
  Body ParseBody(const Names& ends, int opened_at) {
    FIREQ_CHECK(++nesting_ <= kMaxTreeDepth, kUnsupported, "chat template, line ", opened_at,
                ": nested more than ", kMaxTreeDepth, " deep");
    Body body;
    while (true) {
      if (Current().kind == TokenKind::kEnd) {
        FIREQ_CHECK(ends.empty(), kCorrupt, "chat template, line ", opened_at,
                    ": this block has no ", ends.empty() ? "" : ends.back());
        break;
      }
      if (Current().kind == TokenKind::kData) {
        body.push_back(MakeStmt(Stmt::Kind::kData));
        body.back()->text = Next().text;
      } else if (Current().kind == TokenKind::kVariableBegin) {
        Next();
        body.push_back(MakeStmt(Stmt::Kind::kPrint));
        body.back()->value = ParseTuple();
        if (Current().kind != TokenKind::kVariableEnd) Fail("'}}'");
        Next();
      } else {
        Next();
        if (std::ranges::find(ends, Current().text) != ends.end()) break;
        body.push_back(ParseStatement());
      }
    }
    --nesting_;
    return body;
  }

  // A body and the end block itself.
  Body ParseBodyAndEnd(std::string_view end, int opened_at) {
    Body body = ParseBody({end}, opened_at);
    Next();
    NeedBlockEnd();
    return body;
  }

  StmtPtr ParseStatement() {
    const int line = Current().line;
    const std::string name = NeedIdentifier();
    if (name == "if") return ParseIf();
    if (name == "for") return ParseFor();
    if (name == "set") return ParseSet();
    if (name == "macro") return ParseMacro();
    if (name == "call") return ParseCallBlock();
    if (name == "filter") return ParseFilterBlock();
    if (name == "with") return ParseWith();
    if (name == "break" || name == "continue") {
      FIREQ_CHECK(loops_ > 0, kCorrupt, "chat template, line ", line, ": ", name,
                  " outside of a loop");
      StmtPtr stmt = MakeStmt(name == "break" ? Stmt::Kind::kBreak : Stmt::Kind::kContinue);
      NeedBlockEnd();
      return stmt;
    }
    if (name == "generation") {  // marks text for training; renders as its body
      StmtPtr stmt = MakeStmt(Stmt::Kind::kScope);
      NeedBlockEnd();
      stmt->body = ParseBodyAndEnd("endgeneration", line);
      return stmt;
    }
    constexpr std::string_view kKnown[] = {"include", "import", "from",       "extends", "block",
                                           "do",      "trans",  "autoescape", "debug"};
    const bool known = std::ranges::find(kKnown, name) != std::end(kKnown);
    Throw(known ? ErrorCode::kUnsupported : ErrorCode::kCorrupt,
          StrCat("chat template, line ", line, ": the statement '", name,
                 known ? "' is not supported" : "' is unknown or out of place"));
  }

  StmtPtr ParseIf() {
    StmtPtr stmt = MakeStmt(Stmt::Kind::kIf);
    while (true) {
      ExprPtr condition = ParseTuple();
      NeedBlockEnd();
      Body body = ParseBody({"elif", "else", "endif"}, stmt->line);
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      if (!TakeName("elif")) break;
    }
    if (TakeName("else")) {
      NeedBlockEnd();
      stmt->otherwise = ParseBody({"endif"}, stmt->line);
    }
    Next();
    NeedBlockEnd();
    return stmt;
  }

  // Names to assign to: a name, an attribute of a namespace, or a tuple of names.
  ExprPtr ParseTarget(bool allow_attribute) {
    const int line = Current().line;
    const bool parentheses = TakeOperator("(");
    ExprPtr first = ParseTargetItem(allow_attribute && !parentheses);
    if (!parentheses && !SeesOperator(",")) return first;
    ExprPtr tuple = Make(Expr::Kind::kTuple, line);
    Adopt(*tuple, std::move(first));
    while (TakeOperator(",")) {
      if (SeesName("in") || SeesOperator("=") || SeesOperator(")")) break;
      Adopt(*tuple, ParseTargetItem(false));
    }
    if (parentheses) NeedOperator(")");
    return tuple;
  }

  ExprPtr ParseTargetItem(bool allow_attribute) {
    const int line = Current().line;
    if (!allow_attribute && SeesOperator("(")) {
      if (++nesting_ > kMaxTreeDepth) Fail("less nesting");
      ExprPtr inner = ParseTarget(false);
      --nesting_;
      return inner;
    }
    ExprPtr name = Make(Expr::Kind::kName, line, NeedIdentifier());
    if (!allow_attribute || !TakeOperator(".")) return name;
    ExprPtr attribute = Make(Expr::Kind::kAttribute, line, NeedIdentifier());
    Adopt(*attribute, std::move(name));
    return attribute;
  }

  StmtPtr ParseFor() {
    StmtPtr stmt = MakeStmt(Stmt::Kind::kFor);
    stmt->target = ParseTarget(false);
    if (!TakeName("in")) Fail("'in'");
    stmt->value = ParseTuple(Conditionals::kNotAllowed);
    if (TakeName("if")) stmt->condition = ParseExpression();
    stmt->recursive = TakeName("recursive");
    NeedBlockEnd();
    ++loops_;
    stmt->body = ParseBody({"else", "endfor"}, stmt->line);
    --loops_;
    if (TakeName("else")) {
      NeedBlockEnd();
      stmt->otherwise = ParseBody({"endfor"}, stmt->line);
    }
    Next();
    NeedBlockEnd();
    return stmt;
  }

  StmtPtr ParseSet() {
    StmtPtr stmt = MakeStmt(Stmt::Kind::kSet);
    stmt->target = ParseTarget(true);
    if (TakeOperator("=")) {
      stmt->value = ParseTuple();
      NeedBlockEnd();
      return stmt;
    }
    stmt->kind = Stmt::Kind::kSetBlock;
    stmt->value = ParseFilters(nullptr);
    NeedBlockEnd();
    stmt->body = ParseBodyAndEnd("endset", stmt->line);
    return stmt;
  }

  std::vector<Parameter> ParseParameters() {
    std::vector<Parameter> parameters;
    NeedOperator("(");
    while (!TakeOperator(")")) {
      Parameter& parameter = parameters.emplace_back();
      parameter.name = NeedIdentifier();
      if (TakeOperator("=")) parameter.fallback = ParseExpression();
      if (!SeesOperator(")")) NeedOperator(",");
    }
    return parameters;
  }

  StmtPtr ParseMacro() {
    StmtPtr stmt = MakeStmt(Stmt::Kind::kMacro);
    stmt->text = NeedIdentifier();
    stmt->parameters = ParseParameters();
    ParseMacroBody(*stmt, "endmacro");
    return stmt;
  }

  void ParseMacroBody(Stmt& macro, std::string_view end) {
    NeedBlockEnd();
    const int outer_loops = std::exchange(loops_, 0);
    const bool outer_varargs = std::exchange(saw_varargs_, false);
    const bool outer_kwargs = std::exchange(saw_kwargs_, false);
    macro.body = ParseBodyAndEnd(end, macro.line);
    macro.uses_varargs = saw_varargs_;
    macro.uses_kwargs = saw_kwargs_;
    saw_varargs_ |= outer_varargs;
    saw_kwargs_ |= outer_kwargs;
    loops_ = outer_loops;
  }

  StmtPtr ParseCallBlock() {
    StmtPtr stmt = MakeStmt(Stmt::Kind::kCall);
    if (SeesOperator("(")) stmt->parameters = ParseParameters();
    stmt->value = ParseExpression();
    if (stmt->value->kind != Expr::Kind::kCall) Fail("a call");
    ParseMacroBody(*stmt, "endcall");
    return stmt;
  }

  StmtPtr ParseFilterBlock() {
    StmtPtr stmt = MakeStmt(Stmt::Kind::kFilter);
    ExprPtr filter = Make(Expr::Kind::kFilter, stmt->line, NeedIdentifier());
    Adopt(*filter, nullptr);
    if (SeesOperator("(")) ParseArguments(*filter);
    stmt->value = ParseFilters(std::move(filter));
    NeedBlockEnd();
    stmt->body = ParseBodyAndEnd("endfilter", stmt->line);
    return stmt;
  }

  StmtPtr ParseWith() {
    StmtPtr stmt = MakeStmt(Stmt::Kind::kWith);
    while (Current().kind != TokenKind::kBlockEnd) {
      ExprPtr target = ParseTarget(false);
      NeedOperator("=");
      stmt->assignments.emplace_back(std::move(target), ParseExpression());
      if (Current().kind != TokenKind::kBlockEnd) NeedOperator(",");
    }
    NeedBlockEnd();
    stmt->body = ParseBodyAndEnd("endwith", stmt->line);
    return stmt;
  }

  int loops_ = 0;
};

}  // namespace

Body ParseTemplate(std::string_view source) { return Parser(Tokenize(source)).ParseAll(); }

}  // namespace fireq::jinja
