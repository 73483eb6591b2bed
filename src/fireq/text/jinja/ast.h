// The tree of a parsed template. Its depth is bounded by the parser.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fireq/text/jinja/value.h"

namespace fireq::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct Expr {
  enum class Kind {
    kConstant,     // constant
    kName,         // name
    kList,         // children
    kTuple,        // children
    kDict,         // children: key, value, key, value, ...
    kAttribute,    // children[0] . name
    kIndex,        // children[0] [ children[1] ]
    kSlice,        // children[0] [ 1 : 2 : 3 ], absent ones null
    kCall,         // children[0] ( children[1...], named )
    kFilter,       // children[0] | name ( children[1...], named ); [0] null in a filter block
    kTest,         // children[0] is name ( children[1...], named )
    kUnary,        // name: not - +
    kBinary,       // children[0] name children[1]; name: + - * / // % ** and or
    kCompare,      // children[0] names[0] children[1] names[1] ...
    kConcat,       // children joined by ~
    kConditional,  // children[0] if children[1] else children[2] (may be null)
  };
  Kind kind = Kind::kConstant;
  int line = 0;
  int depth = 1;
  Value constant;
  std::string name;
  std::vector<std::string> names;
  std::vector<ExprPtr> children;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

struct Parameter {
  std::string name;
  ExprPtr fallback;  // null: none
};

struct Stmt {
  enum class Kind {
    kData,      // text
    kPrint,     // value
    kIf,        // branches: (condition, body)...; otherwise
    kFor,       // target in value [if condition]; body; otherwise; recursive
    kSet,       // target = value
    kSetBlock,  // target = body [| value]
    kMacro,     // text ( parameters ): body
    kCall,      // value is called with the macro caller( parameters ): body
    kFilter,    // value, a filter chain on body
    kWith,      // assignments; body
    kScope,     // body
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kData;
  int line = 0;
  std::string text;
  ExprPtr target;
  ExprPtr value;
  ExprPtr condition;
  bool recursive = false;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<ExprPtr, ExprPtr>> assignments;
  std::vector<Parameter> parameters;
  // A macro whose body names them takes further arguments.
  bool uses_varargs = false, uses_kwargs = false;
  Body body;
  Body otherwise;
};

}  // namespace fireq::jinja
