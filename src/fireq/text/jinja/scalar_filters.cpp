// Filters of text and numbers, and tojson.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "fireq/base/error.h"
#include "fireq/base/html.h"
#include "fireq/text/jinja/filter_table.h"
#include "fireq/text/unicode_normal.h"
#include "fireq/text/utf8.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

Value Trim(Runtime&, const Value& value, const Arguments& arguments) {
  const std::string chars = ArgumentReader("trim", arguments, {"chars"}).String("chars", "");
  return Text(Strip(value.ToString(), chars, true, true));
}

Value Replace(Runtime&, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("replace", arguments, {"old", "new", "count"});
  return Value::String(ReplaceText(value.ToString(), in.Need("old").ToString(),
                                   in.Need("new").ToString(), in.Int("count", -1)));
}

Value Default(Runtime&, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("default", arguments, {"default_value", "boolean"});
  const bool missing = value.Is(Type::kUndefined) || (in.Bool("boolean", false) && !value.Truthy());
  if (!missing) return value;
  return in.Get("default_value") != nullptr ? *in.Get("default_value") : Text("");
}

// As transformers defines it, json.dumps without the escapes for HTML.
Value Tojson(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("tojson", arguments,
                          {"ensure_ascii", "indent", "separators", "sort_keys"});
  constexpr int64_t kMaxIndent = 64;
  const int64_t indent = in.Int("indent", -1);
  FIREQ_CHECK(indent >= -1 && indent <= kMaxIndent, kUnsupported, "tojson: indent ", indent);
  JsonStyle style = {.indent = static_cast<int>(indent),
                     .sort_keys = in.Bool("sort_keys", false),
                     .ensure_ascii = in.Bool("ensure_ascii", false)};
  if (indent >= 0) style.item_separator = ",";
  const Value* separators = in.Get("separators");
  if (separators != nullptr && !separators->Is(Type::kNone)) {
    const bool pair = separators->IsSequence() && separators->AsList().size() == 2 &&
                      separators->AsList()[0].Is(Type::kString) &&
                      separators->AsList()[1].Is(Type::kString);
    FIREQ_CHECK(pair, kInvalidArgument, "tojson: separators are two texts, got ",
                separators->TypeName());
    style.item_separator = separators->AsList()[0].AsString();
    style.key_separator = separators->AsList()[1].AsString();
  }
  std::string json = ToJson(value, style);
  runtime.budget.Charge(static_cast<int64_t>(json.size()));
  return Value::String(std::move(json));
}

// What Python's int() lets stand in a number of `base` and std::from_chars does not: a plus, the
// prefix of the base, an underscore between digits.
std::string PlainDigits(std::string_view text, int base) {
  std::string out;
  if (text.starts_with('-')) out = "-";
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  if (text.starts_with('-') || text.starts_with('+')) return "";
  const char letter = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  const bool prefixed = text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == letter;
  if (prefixed) text.remove_prefix(2);
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between = i > 0 && i + 1 < text.size() && text[i - 1] != '_' && text[i + 1] != '_';
    if (text[i] != '_' || !(between || (prefixed && i == 0))) out += text[i];
  }
  return out;
}

Value ToInt(Runtime&, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("int", arguments, {"default", "base"});
  Value fallback = in.Get("default") != nullptr ? *in.Get("default") : Value::Int(0);
  if (value.Is(Type::kInt) || value.Is(Type::kBool)) return Value::Int(value.AsInt());
  double real = 0;
  if (value.Is(Type::kFloat)) {
    real = value.AsFloat();
  } else if (value.Is(Type::kString)) {
    const auto base = static_cast<int>(std::clamp<int64_t>(in.Int("base", 10), 2, 36));
    const std::string text = PlainDigits(Strip(value.AsString(), "", true, true), base);
    int64_t integer = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, integer, base);
    FIREQ_CHECK(stop != end || error != std::errc::result_out_of_range, kUnsupported, "int: ", text,
                " exceeds 64 bits");
    if (stop == end && !text.empty()) return Value::Int(integer);
    if (std::from_chars(text.data(), end, real).ptr != end || text.empty()) return fallback;
  } else {
    return fallback;
  }
  if (!std::isfinite(real)) return fallback;
  FIREQ_CHECK(std::fabs(real) < 9e18, kUnsupported, "int: ", FloatRepr(real), " exceeds 64 bits");
  return Value::Int(static_cast<int64_t>(real));
}

Value ToFloat(Runtime&, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("float", arguments, {"default"});
  if (value.IsNumber()) return Value::Float(value.AsFloat());
  double real = 0;
  const std::string text(Strip(value.ToString(), "", true, true));
  const char* end = text.data() + text.size();
  if (!text.empty() && std::from_chars(text.data(), end, real).ptr == end) {
    return Value::Float(real);
  }
  return in.Get("default") != nullptr ? *in.Get("default") : Value::Float(0);
}

Value Round(Runtime&, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("round", arguments, {"precision", "method"});
  FIREQ_CHECK(value.IsNumber(), kInvalidArgument, "round needs a number, got ", value.TypeName());
  constexpr int64_t kMaxPrecision = 40;
  const int64_t precision = in.Int("precision", 0);
  FIREQ_CHECK(precision >= -kMaxPrecision && precision <= kMaxPrecision, kUnsupported,
              "round: a precision of ", precision);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const std::string method = in.String("method", "common");
  const double scaled = value.AsFloat() * scale;
  if (method == "ceil") return Value::Float(std::ceil(scaled) / scale);
  if (method == "floor") return Value::Float(std::floor(scaled) / scale);
  if (!value.Is(Type::kFloat) && precision >= 0) return Value::Int(value.AsInt());
  // Python rounds halves to even, as the default floating-point mode does; only some decimal
  // fractions are halves, which the decimal digits of the exact value tell and `scaled` does not.
  double rounded = std::nearbyint(scaled) / scale;
  if (precision > 0 && std::isfinite(rounded)) {
    char digits[400];
    const auto end = std::to_chars(digits, std::end(digits), value.AsFloat(),
                                   std::chars_format::fixed, static_cast<int>(precision));
    std::from_chars(digits, end.ptr, rounded);
  }
  if (value.Is(Type::kFloat)) return Value::Float(rounded);
  FIREQ_CHECK(std::fabs(rounded) < 9e18, kUnsupported, "round: ", rounded, " exceeds 64 bits");
  return Value::Int(static_cast<int64_t>(rounded));
}

// Words begin behind white space and opening brackets; "don't" is one, unlike in str.title().
Value Title(Runtime&, const Value& value, const Arguments&) {
  const std::string source = value.ToString();
  std::string out;
  bool at_word_start = true;
  for (std::string_view rest = source; !rest.empty();) {
    const std::string_view one =
        rest.substr(0, static_cast<size_t>(std::max<int64_t>(text::CharLength(rest, 0), 1)));
    out += at_word_start ? text::UpperCase(one) : text::LowerCase(one);
    at_word_start = std::string_view("-({[<").find(one) != std::string_view::npos ||
                    Strip(one, "", true, false).empty();
    rest.remove_prefix(one.size());
  }
  return Value::String(std::move(out));
}

// Runs of letters, digits and underscores.
Value WordCount(Runtime& runtime, const Value& value, const Arguments&) {
  const std::u32string characters = text::ToUtf32(value.ToString());
  runtime.budget.Charge(static_cast<int64_t>(characters.size()));
  int64_t words = 0;
  bool inside = false;
  for (const char32_t c : characters) {
    const bool part = c == '_' || text::IsLetter(c) || text::IsNumber(c);
    words += part && !inside ? 1 : 0;
    inside = part;
  }
  return Value::Int(words);
}

Value Abs(Runtime&, const Value& value, const Arguments&) {
  FIREQ_CHECK(value.IsNumber(), kInvalidArgument, "abs needs a number, got ", value.TypeName());
  if (value.Is(Type::kFloat)) return Value::Float(std::fabs(value.AsFloat()));
  return Arithmetic(*std::make_unique<Runtime>(), "*", Value::Int(value.AsInt() < 0 ? -1 : 1),
                    Value::Int(value.AsInt()));
}

Value Indent(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("indent", arguments, {"width", "first", "blank"});
  const Value* width = in.Get("width");
  constexpr int64_t kMaxWidth = 1024;
  std::string margin;
  if (width != nullptr && width->Is(Type::kString)) {
    margin = width->AsString();
  } else {
    margin.assign(static_cast<size_t>(std::clamp<int64_t>(in.Int("width", 4), 0, kMaxWidth)), ' ');
  }
  const bool blank = in.Bool("blank", false);
  const std::string text = value.ToString();
  std::string out;
  // Every end of a line becomes a newline, as Jinja does it.
  bool first = true;
  for (std::string_view rest = text;; first = false) {
    const Line line = FirstLine(rest);
    const bool wanted = first ? in.Bool("first", false) : line.size > 0 || blank;
    if (!first) out += '\n';
    if (wanted) out += margin;
    out += rest.substr(0, line.size);
    runtime.budget.Charge(static_cast<int64_t>(line.size + margin.size()));
    FIREQ_CHECK(static_cast<int64_t>(out.size()) <= kMaxWeight, kUnsupported,
                "indent makes more than ", kMaxWeight, " bytes");
    if (line.end_size == 0) break;
    rest.remove_prefix(line.size + line.end_size);
  }
  return Value::String(std::move(out));
}

Value Truncate(Runtime&, const Value& value, const Arguments& arguments) {
  const ArgumentReader in("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const int64_t length = in.Int("length", 255);
  const std::string end = in.String("end", "...");
  const std::u32string codes = text::ToUtf32(value.ToString());
  const auto size = static_cast<int64_t>(codes.size());
  const int64_t keep = length - Length(Text(end));
  FIREQ_CHECK(keep >= 0, kInvalidArgument, "truncate: length ", length, " is below that of '", end,
              "'");
  if (size <= length + in.Int("leeway", 5)) return value;
  std::string out;
  for (int64_t i = 0; i < keep; ++i) text::AppendUtf8(out, codes[static_cast<size_t>(i)]);
  const size_t space = out.rfind(' ');
  if (!in.Bool("killwords", false) && space != out.npos) out.resize(space);
  return Value::String(out + end);
}

Value Center(Runtime&, const Value& value, const Arguments& arguments) {
  constexpr int64_t kMaxWidth = 4096;
  const int64_t width = ArgumentReader("center", arguments, {"width"}).Int("width", 80);
  FIREQ_CHECK(width <= kMaxWidth, kUnsupported, "center: width ", width);
  const std::string text = value.ToString();
  const int64_t room = std::max<int64_t>(width - Length(Text(text)), 0);
  const int64_t left = room / 2 + (room & width & 1);
  return Value::String(std::string(static_cast<size_t>(left), ' ') + text +
                       std::string(static_cast<size_t>(room - left), ' '));
}

Value Escape(Runtime&, const Value& value, const Arguments&) {
  return Value::String(EscapeHtml(value.ToString()));
}

Value UrlEncode(Runtime&, const Value& value, const Arguments&) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : value.ToString()) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || c == '/';
    if (plain) {
      out += c;
    } else {
      out += '%';
      out += kHex[static_cast<unsigned char>(c) >> 4];
      out += kHex[c & 15];
    }
  }
  return Value::String(std::move(out));
}

Value Format(Runtime&, const Value& value, const Arguments& arguments) {
  FIREQ_CHECK(arguments.positional.empty() || arguments.named.empty(), kInvalidArgument,
              "format takes values or named values, not both");
  if (arguments.named.empty()) {
    return Value::String(FormatPercent(value.ToString(), Value::Tuple(arguments.positional)));
  }
  Items named;
  for (const auto& [name, item] : arguments.named) named.emplace_back(Value::String(name), item);
  return Value::String(FormatPercent(value.ToString(), Value::Dict(std::move(named))));
}

constexpr FilterRow kScalarFilters[] = {
    {"abs", Abs},
    {"capitalize", [](Runtime&, const Value& v,
                      const Arguments&) { return Value::String(TitleCase(v.ToString(), false)); }},
    {"center", Center},
    {"d", Default},
    {"default", Default},
    {"e", Escape},
    {"escape", Escape},
    {"float", ToFloat},
    {"format", Format},
    {"indent", Indent},
    {"int", ToInt},
    {"lower", [](Runtime&, const Value& v,
                 const Arguments&) { return Value::String(text::LowerCase(v.ToString())); }},
    {"replace", Replace},
    {"round", Round},
    {"safe", [](Runtime&, const Value& v, const Arguments&) { return Text(v.ToString()); }},
    {"string", [](Runtime&, const Value& v, const Arguments&) { return Text(v.ToString()); }},
    {"title", Title},
    {"tojson", Tojson},
    {"trim", Trim},
    {"truncate", Truncate},
    {"upper", [](Runtime&, const Value& v,
                 const Arguments&) { return Value::String(text::UpperCase(v.ToString())); }},
    {"urlencode", UrlEncode},
    {"wordcount", WordCount},
};

}  // namespace

std::span<const FilterRow> ScalarFilters() { return kScalarFilters; }

}  // namespace fireq::jinja
