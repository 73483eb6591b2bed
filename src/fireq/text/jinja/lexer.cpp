#include "fireq/text/jinja/lexer.h"

#include <algorithm>
#include <charconv>

#include "fireq/base/error.h"
#include "fireq/text/utf8.h"

namespace fireq::jinja {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

// Line ends become \n, and one at the very end is dropped.
std::string NormalizeLines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(NormalizeLines(source)) {}

  std::vector<Token> Run() {
    while (at_ < source_.size()) Root();
    Emit(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  enum class Tag { kVariable, kBlock, kComment };

  char Peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }
  bool Sees(std::string_view text) const {
    return std::string_view(source_).substr(at_).starts_with(text);
  }
  void Advance(size_t count) {
    const auto from = source_.begin() + static_cast<ptrdiff_t>(at_);
    line_ += static_cast<int>(std::count(from, from + static_cast<ptrdiff_t>(count), '\n'));
    at_ += count;
  }
  void SkipSpace() {
    while (at_ < source_.size() && IsSpace(source_[at_])) Advance(1);
  }
  void Emit(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void Check(bool ok, std::string_view what) const {
    FIREQ_CHECK(ok, kCorrupt, "chat template, line ", line_, ": ", what);
  }

  // Data up to the next tag, then the tag.
  void Root() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == source_.npos) return Data(source_.size(), source_.size());
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : '\0';
      if (next == '{') return Open(tag, Tag::kVariable);
      if (next == '%') return Open(tag, Tag::kBlock);
      if (next == '#') return Open(tag, Tag::kComment);
      ++tag;
    }
  }

  // Emits the data before a tag at `end`, without what the tag strips, and moves to `next`.
  void Data(size_t end, size_t next) {
    if (end > at_) Emit(TokenKind::kData, source_.substr(at_, end - at_));
    Advance(next - at_);
  }

  // Where the data before a tag at `tag` ends, after stripping.
  size_t DataEnd(size_t tag, Tag kind) const {
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    size_t end = tag;
    while (end > at_ && IsSpace(source_[end - 1])) {
      if (sign != '-' && source_[end - 1] == '\n') break;
      --end;
    }
    if (sign == '-') return end;
    const bool whole_line = end > at_ ? source_[end - 1] == '\n' : line_starting_;
    return sign != '+' && kind != Tag::kVariable && whole_line ? end : tag;
  }

  void Open(size_t tag, Tag kind) {
    Data(DataEnd(tag, kind), tag);
    const int begin_line = line_;
    Advance(2);
    if (Peek() == '-' || Peek() == '+') Advance(1);
    if (kind == Tag::kComment) return Comment();
    if (kind == Tag::kBlock && Raw()) return;
    Emit(kind == Tag::kBlock ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    open_.clear();
    while (!Close(kind)) {
      FIREQ_CHECK(at_ < source_.size(), kCorrupt, "chat template, line ", begin_line,
                  ": this tag is never closed");
      Expression();
    }
  }

  // After the closing delimiter: "-" swallows all white space, a plain one a newline.
  void AfterTag(char sign, bool trims_newline) {
    line_starting_ = false;
    if (sign == '-') {
      const size_t before = at_;
      SkipSpace();
      line_starting_ = at_ > before && source_[at_ - 1] == '\n';
    } else if (sign != '+' && trims_newline && Peek() == '\n') {
      Advance(1);
      line_starting_ = true;
    }
  }

  void Comment() {
    const size_t end = source_.find("#}", at_);
    Check(end != source_.npos, "this comment is never closed");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    Advance(end + 2 - at_);
    AfterTag(sign, true);
  }

  // Skips spaces and `word`, then reads the end of a block; false, moving nothing, if it is not so.
  bool WordAndClose(size_t from, std::string_view word, size_t* end, char* sign) const {
    const auto skip = [&] {
      while (from < source_.size() && IsSpace(source_[from])) ++from;
    };
    skip();
    if (!std::string_view(source_).substr(from).starts_with(word)) return false;
    from += word.size();
    skip();
    *sign = from < source_.size() ? source_[from] : '\0';
    if (*sign == '-' || *sign == '+') ++from;
    *end = from + 2;
    return std::string_view(source_).substr(from).starts_with("%}");
  }

  bool Raw() {
    size_t end = 0;
    char sign = '\0';
    if (!WordAndClose(at_, "raw", &end, &sign)) return false;
    Advance(end - at_);
    AfterTag(sign, false);
    for (size_t tag = source_.find("{%", at_);; tag = source_.find("{%", tag + 2)) {
      Check(tag != source_.npos, "this raw block has no endraw");
      const bool signed_tag = source_[tag + 2] == '-' || source_[tag + 2] == '+';
      if (!WordAndClose(tag + (signed_tag ? 3 : 2), "endraw", &end, &sign)) continue;
      Data(DataEnd(tag, Tag::kBlock), end);
      AfterTag(sign, true);
      return true;
    }
  }

  // Reads the end of the tag if it is here.
  bool Close(Tag kind) {
    SkipSpace();
    if (!open_.empty()) return false;
    const std::string_view delimiter = kind == Tag::kBlock ? "%}" : "}}";
    const char sign = Peek();
    const bool is_signed = sign == '-' || (sign == '+' && kind == Tag::kBlock);
    if (!std::string_view(source_).substr(at_ + (is_signed ? 1 : 0)).starts_with(delimiter)) {
      return false;
    }
    Emit(kind == Tag::kBlock ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
    Advance(delimiter.size() + (is_signed ? 1 : 0));
    AfterTag(sign, kind == Tag::kBlock);
    return true;
  }

  void Expression() {
    const char c = Peek();
    if (IsNameStart(c)) return Name();
    if (IsDigit(c)) return Number();
    if (c == '\'' || c == '"') return Quoted();
    Operator();
  }

  void Name() {
    size_t size = 1;
    while (IsNameStart(Peek(size)) || IsDigit(Peek(size))) ++size;
    Emit(TokenKind::kName, source_.substr(at_, size));
    Advance(size);
  }

  void Number() {
    const bool after_dot = !tokens_.empty() && tokens_.back().kind == TokenKind::kOperator &&
                           tokens_.back().text == ".";
    if (!after_dot && PrefixedInteger()) return;
    std::string digits;
    const auto take_digits = [&] {
      while (IsDigit(Peek()) || (Peek() == '_' && IsDigit(Peek(1)))) {
        if (Peek() != '_') digits += Peek();
        Advance(1);
      }
    };
    take_digits();
    bool is_float = false;
    if (!after_dot && Peek() == '.' && IsDigit(Peek(1))) {
      is_float = true;
      digits += '.';
      Advance(1);
      take_digits();
    }
    const size_t sign = Peek(1) == '+' || Peek(1) == '-' ? 1 : 0;
    if (!after_dot && (Peek() == 'e' || Peek() == 'E') && IsDigit(Peek(1 + sign))) {
      is_float = true;
      digits += source_.substr(at_, 1 + sign);
      Advance(1 + sign);
      take_digits();
    }
    Check(!IsNameStart(Peek()), "a number runs into a name");
    Emit(is_float ? TokenKind::kFloat : TokenKind::kInteger, digits);
  }

  // 0x1F, 0o17 and 0b11.
  bool PrefixedInteger() {
    const char letter = static_cast<char>(Peek(1) | 0x20);
    const int base = Peek() != '0'   ? 0
                     : letter == 'x' ? 16
                     : letter == 'o' ? 8
                     : letter == 'b' ? 2
                                     : 0;
    if (base == 0) return false;
    Advance(2);
    std::string digits;
    for (; IsNameStart(Peek()) || IsDigit(Peek()); Advance(1)) {
      if (Peek() != '_') digits += Peek();
    }
    int64_t value = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value, base);
    Check(stop == end && !digits.empty(), "a number runs into a name");
    FIREQ_CHECK(error == std::errc(), kUnsupported, "chat template, line ", line_, ": the number ",
                digits, " is out of range");
    Emit(TokenKind::kInteger, std::to_string(value));
    return true;
  }

  void Quoted() {
    const char quote = Peek();
    const int begin_line = line_;
    Advance(1);
    std::string value;
    while (at_ < source_.size() && Peek() != quote) {
      if (Peek() == '\\') {
        Escape(value);
      } else {
        value += Peek();
        Advance(1);
      }
    }
    FIREQ_CHECK(at_ < source_.size(), kCorrupt, "chat template, line ", begin_line,
                ": this string is never closed");
    Advance(1);
    Emit(TokenKind::kString, value);
  }

  // Python's escapes; an unknown one stays as it is.
  void Escape(std::string& value) {
    const char c = Peek(1);
    constexpr std::string_view kNames = "ntr\\'\"abfv";
    constexpr std::string_view kValues("\n\t\r\\'\"\a\b\f\v", 10);
    const size_t known = c == '\0' ? kNames.npos : kNames.find(c);
    const size_t hex_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (hex_digits > 0) {
      char32_t code = 0;
      for (size_t i = 0; i < hex_digits; ++i) {
        const char digit = Peek(2 + i);
        const size_t number = std::string_view("0123456789abcdef").find(digit | 0x20);
        Check(digit != '\0' && number < 16, "a broken escape in a string");
        code = code << 4 | static_cast<char32_t>(number);
      }
      text::AppendUtf8(value, code);
      Advance(2 + hex_digits);
    } else if (c >= '0' && c <= '7') {
      char32_t code = 0;
      size_t size = 1;
      for (; size <= 3 && Peek(size) >= '0' && Peek(size) <= '7'; ++size) {
        code = code << 3 | static_cast<char32_t>(Peek(size) - '0');
      }
      text::AppendUtf8(value, code);
      Advance(size);
    } else if (known != kNames.npos) {
      value += kValues[known];
      Advance(2);
    } else if (c == '\n') {
      Advance(2);
    } else {
      value += '\\';
      Advance(1);
    }
  }

  void Operator() {
    constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kOne = "+-/*%~[](){}<>=.:|,;";
    const auto two = std::ranges::find_if(kTwo, [&](auto op) { return Sees(op); });
    const std::string op(two != std::end(kTwo) ? *two : std::string_view(&source_[at_], 1));
    Check(op.size() == 2 || kOne.find(op[0]) != kOne.npos, "unexpected character '" + op + "'");
    if (op == "(" || op == "[" || op == "{") open_ += op == "(" ? ')' : op == "[" ? ']' : '}';
    if (op == ")" || op == "]" || op == "}") {
      Check(!open_.empty() && open_.back() == op[0], "unbalanced '" + op + "'");
      open_.pop_back();
    }
    Emit(TokenKind::kOperator, op);
    Advance(op.size());
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::string open_;  // brackets still to be closed inside the tag
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace fireq::jinja
