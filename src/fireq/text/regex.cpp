#define PCRE2_CODE_UNIT_WIDTH 8
#include "fireq/text/regex.h"

#include <pcre2.h>

#include <vector>

#include "fireq/base/error.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// Unicode White_Space as PCRE2 class items. PCRE2's own \s also has U+180E.
constexpr std::string_view kSpaceItems = "\\t-\\r\\x{20}\\x{85}\\p{Z}";
// PCRE2's own \w lacks marks and connectors.
constexpr std::string_view kWordItems = "\\p{L}\\p{M}\\p{N}\\p{Pc}";
constexpr std::string_view kHexItems = "0-9a-fA-F";

// A pattern whose backtracking exceeds this many PCRE2 match steps on one match is refused, so that
// a hostile tokenizer.json cannot hang the program.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr size_t kJitStackStart = 64 << 10;
constexpr size_t kJitStackMax = 256 << 20;

// Rewrites a pattern from left to right, remembering where the last atom began.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string Run() {
    while (at_ < in_.size()) Step();
    return out_;
  }

 private:
  void Step() {
    const char c = in_[at_];
    if (c == '\\') return Escape();
    if (class_depth_ > 0) return InsideClass(c);
    if (c == '[') return OpenClass();
    if (c == '(') {
      group_starts_.push_back(out_.size());
      return Copy(1);
    }
    if (c == ')') {
      if (!group_starts_.empty()) {
        atom_ = group_starts_.back();
        group_starts_.pop_back();
      }
      return Copy(1);
    }
    if (c == '{') return Interval();
    if (c != '?' && c != '*' && c != '+' && c != '|') atom_ = out_.size();
    Copy(1);
  }

  void Copy(size_t count) {
    out_.append(in_.substr(at_, count));
    at_ += count;
  }

  void Escape() {
    const char next = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    const bool in_class = class_depth_ > 0;
    if (!in_class) atom_ = out_.size();
    if (next == 'p' && ScriptName()) return;
    std::string_view items;
    if (next == 's' || next == 'S') items = kSpaceItems;
    if (next == 'w' || next == 'W') items = kWordItems;
    if (next == 'h' || next == 'H') items = kHexItems;
    if (items.empty()) return Copy(2);
    const bool negated = next == 'S' || next == 'W' || next == 'H';
    // A negated list inside a list has no list form.
    FIREQ_CHECK(!(in_class && negated), kUnsupported, "the regular expression \"", in_, "\" has \\",
                next, " inside a character class at byte ", at_);
    at_ += 2;
    if (!in_class) out_ += negated ? "[^" : "[";
    out_ += items;
    if (!in_class) out_ += ']';
  }

  // \p{Han} is the script property for Oniguruma, script extensions for PCRE2.
  bool ScriptName() {
    const size_t end = in_.find('}', at_);
    if (in_.substr(at_ + 2, 1) != "{" || end == std::string_view::npos) return false;
    const std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    if (name.size() < 3 || name == "Any" || name[0] < 'A' || name[0] > 'Z') return false;
    out_ += "\\p{sc:";
    out_ += name;
    out_ += '}';
    at_ = end + 1;
    return true;
  }

  void OpenClass() {
    atom_ = out_.size();
    ++class_depth_;
    Copy(1);
    if (at_ < in_.size() && in_[at_] == '^') Copy(1);
    if (at_ < in_.size() && in_[at_] == ']') Copy(1);
  }

  void InsideClass(char c) {
    if (c == ']') --class_depth_;
    if (c == '[' && at_ + 1 < in_.size() && in_[at_ + 1] == ':') {
      const size_t end = in_.find(":]", at_ + 2);
      if (end != std::string_view::npos) return Copy(end + 2 - at_);
    }
    // Oniguruma would read a union here and && as an intersection; PCRE2 has neither.
    FIREQ_CHECK(c != '[' && in_.substr(at_, 2) != "&&", kUnsupported, "the regular expression \"",
                in_, "\" combines character classes at byte ", at_);
    Copy(1);
  }

  void Interval() {
    const size_t end = in_.find('}', at_);
    if (end == std::string_view::npos) return Copy(1);
    Copy(end + 1 - at_);
    if (at_ < in_.size() && in_[at_] == '+') {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;  // where the atom that a quantifier would apply to begins in out_
  int class_depth_ = 0;
  std::vector<size_t> group_starts_;
};

std::string MessageOf(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

std::string TranslateOniguruma(std::string_view pattern) { return Translator(pattern).Run(); }

std::string Regex::Escape(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    const bool plain = static_cast<unsigned char>(c) >= 0x80 || (c >= '0' && c <= '9') ||
                       (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    if (!plain) out += '\\';
    out += c;
  }
  return out;
}

Regex::Regex(std::string_view pattern, std::string place) : place_(std::move(place)) {
  constexpr size_t kMaxPattern = 16 << 10;
  FIREQ_CHECK(pattern.size() <= kMaxPattern, kUnsupported, place_, ": a regular expression of ",
              pattern.size(), " bytes, at most ", kMaxPattern, " are supported");
  const std::string translated = TranslateOniguruma(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  FIREQ_CHECK(code != nullptr, kCorrupt, place_, ": the regular expression \"", pattern,
              "\" is not valid near byte ", offset, ": ", MessageOf(error));
  // Without a JIT for this machine PCRE2 interprets: slower, same matches.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  code_ = code;
}

Regex::~Regex() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

struct RegexMatcher::State {
  explicit State(const Regex& r)
      : regex(r),
        code(static_cast<const pcre2_code*>(r.code_)),
        data(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    pcre2_set_match_limit(context, kMatchLimit);
  }
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  int Match(size_t start, uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), start,
                       options | PCRE2_NO_UTF_CHECK, data, context);
  }

  // Most patterns fit the small stack that PCRE2 has by itself; a larger one only on demand.
  bool GrowStack() {
    if (stack != nullptr) return false;
    stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
    if (stack == nullptr) return false;
    pcre2_jit_stack_assign(context, nullptr, stack);
    return true;
  }

  const Regex& regex;
  const pcre2_code* code;
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack = nullptr;
  std::string_view subject;
  size_t at = 0;
  size_t last_end = kNoOffset;
};

RegexMatcher::RegexMatcher(const Regex& regex) : state_(std::make_unique<State>(regex)) {}
RegexMatcher::~RegexMatcher() = default;

void RegexMatcher::Reset(std::string_view subject) {
  state_->subject = subject;
  state_->at = 0;
  state_->last_end = kNoOffset;
}

bool RegexMatcher::Next(Span* match) {
  State& s = *state_;
  while (s.at <= s.subject.size()) {
    int result = s.Match(s.at, 0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && s.GrowStack()) result = s.Match(s.at, 0);
    if (result == PCRE2_ERROR_NOMATCH) break;
    FIREQ_CHECK(result >= 0, kUnsupported, s.regex.place_, ": matching a text of ",
                s.subject.size(), " bytes failed at byte ", s.at, ": ", MessageOf(result));
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(s.data);
    *match = {offsets[0], offsets[1]};
    // \K can put the start after the end; such a match splits nothing.
    if (match->begin > match->end) match->begin = match->end;
    const bool empty = match->begin == match->end;
    const bool repeats_end = empty && match->end == s.last_end;
    s.at = match->end;
    if (empty) s.at += s.at < s.subject.size() ? CharLength(s.subject, s.at) : 1;
    s.last_end = match->end;
    if (!repeats_end) return true;
  }
  s.at = s.subject.size() + 1;
  return false;
}

}  // namespace fireq::text
