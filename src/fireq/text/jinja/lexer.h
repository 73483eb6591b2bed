// Template source -> tokens. Comments are gone, {% raw %} is data, and white space around tags is
// already trimmed as transformers configures Jinja: trim_blocks and lstrip_blocks on, one newline
// at the end of the template dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fireq::jinja {

enum class TokenKind {
  kData,
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,  // text: the value, escapes resolved
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
};

// `source` is valid UTF-8. Errors: kCorrupt with the line. The last token is kEnd.
std::vector<Token> Tokenize(std::string_view source);

}  // namespace fireq::jinja
