// Regular expressions of tokenizer.json files, run by PCRE2 with its JIT.
//
// The files are written for Oniguruma (Ruby syntax, Unicode). TranslateOniguruma rewrites what
// PCRE2 reads differently, so that a pattern means the same here.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace fireq::text {

// A byte range [begin, end) of some text.
struct Span {
  size_t begin = 0;
  size_t end = 0;
  size_t size() const { return end - begin; }
  std::string_view Of(std::string_view text) const { return text.substr(begin, end - begin); }
};

// The PCRE2 spelling of an Oniguruma pattern: \s is exactly Unicode White_Space, \w has marks, \h
// is a hexadecimal digit, \p{Han} the script, and X{n,m}+ repeats instead of being possessive.
// Errors: kUnsupported for classes inside classes.
std::string TranslateOniguruma(std::string_view pattern);

// A compiled pattern; immutable, shared between threads.
class Regex {
 public:
  // `place` names the pattern in errors. Errors: kCorrupt with the offset for a bad pattern.
  Regex(std::string_view pattern, std::string place);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  // The expression that matches `literal` itself.
  static std::string Escape(std::string_view literal);

 private:
  friend class RegexMatcher;
  void* code_ = nullptr;  // pcre2_code
  std::string place_;
};

// Walks over the matches of one subject after another; one matcher a thread.
class RegexMatcher {
 public:
  explicit RegexMatcher(const Regex& regex);
  ~RegexMatcher();
  RegexMatcher(const RegexMatcher&) = delete;
  RegexMatcher& operator=(const RegexMatcher&) = delete;

  // `subject` must be valid UTF-8 and outlive the walk; lookarounds see nothing outside it.
  void Reset(std::string_view subject);

  // The next match, left to right, not overlapping; empty matches included, but not directly after
  // another match. Errors: kUnsupported when the pattern needs too much work or stack on this text.
  bool Next(Span* match);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fireq::text
