// Python's "%..." % values, which is also Jinja's format filter.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "fireq/base/error.h"
#include "fireq/base/number_text.h"
#include "fireq/text/jinja/runtime.h"
#include "fireq/text/utf8.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;

constexpr int64_t kMaxWidth = 10'000;
constexpr int64_t kMaxPrecision = 40;

// %[(key)][flags][width][.precision]conversion
struct Spec {
  std::string key;
  bool has_key = false;
  bool left = false, plus = false, space = false, zero = false, alternate = false;
  int64_t width = 0;
  int64_t precision = -1;  // none
  char conversion = '\0';
};

class SpecReader {
 public:
  SpecReader(std::string_view format, size_t at) : format_(format), at_(at) {}

  // Behind the percent sign.
  Spec Read() {
    Spec spec;
    if (Take('(')) {
      const size_t end = format_.find(')', at_);
      FIREQ_CHECK(end != format_.npos, kInvalidArgument, "incomplete format \"", format_, "\"");
      spec.key = format_.substr(at_, end - at_);
      spec.has_key = true;
      at_ = end + 1;
    }
    while (true) {
      if (Take('-')) {
        spec.left = true;
      } else if (Take('+')) {
        spec.plus = true;
      } else if (Take(' ')) {
        spec.space = true;
      } else if (Take('0')) {
        spec.zero = true;
      } else if (Take('#')) {
        spec.alternate = true;
      } else {
        break;
      }
    }
    spec.width = Number("width", kMaxWidth);
    if (Take('.')) spec.precision = Number("precision", kMaxPrecision);
    FIREQ_CHECK(at_ < format_.size(), kInvalidArgument, "incomplete format \"", format_, "\"");
    spec.conversion = format_[at_++];
    FIREQ_CHECK(
        std::string_view("srdiufFeEgGxXoc%").find(spec.conversion) != std::string_view::npos,
        kUnsupported, "the conversion %", spec.conversion, " is not supported");
    return spec;
  }
  size_t at() const { return at_; }

 private:
  bool Take(char c) {
    const bool is_next = at_ < format_.size() && format_[at_] == c;
    at_ += is_next ? 1 : 0;
    return is_next;
  }

  int64_t Number(std::string_view what, int64_t limit) {
    int64_t value = 0;
    const char* begin = format_.data() + at_;
    const auto [end, error] = std::from_chars(begin, format_.data() + format_.size(), value);
    if (end == begin || format_[at_] == '-') return 0;
    FIREQ_CHECK(error == std::errc() && value <= limit, kUnsupported, "a format's ", what, " of ",
                std::string(begin, end), "; at most ", limit);
    at_ += static_cast<size_t>(end - begin);
    return value;
  }

  std::string_view format_;
  size_t at_;
};

// Sign and prefix of a number, which zeros follow.
struct Number {
  std::string front;
  std::string digits;
};

void UpperCaseAscii(std::string& digits) {
  for (char& c : digits) c = c >= 'a' ? static_cast<char>(c - 'a' + 'A') : c;
}

Number WriteInteger(const Spec& spec, const Value& value) {
  const bool decimal = std::string_view("diu").find(spec.conversion) != std::string_view::npos;
  FIREQ_CHECK(decimal || !value.Is(Type::kFloat), kInvalidArgument, "%", spec.conversion,
              " needs an integer, got ", value.TypeName());
  FIREQ_CHECK(!value.Is(Type::kFloat) || std::fabs(value.AsFloat()) < 9e18, kUnsupported, "%",
              spec.conversion, ": the number is too long");
  const int64_t integer =
      value.Is(Type::kFloat) ? static_cast<int64_t>(value.AsFloat()) : value.AsInt();
  const int base = decimal ? 10 : spec.conversion == 'o' ? 8 : 16;
  char buffer[80];
  const uint64_t magnitude =
      integer < 0 ? 0 - static_cast<uint64_t>(integer) : static_cast<uint64_t>(integer);
  Number out;
  out.digits = std::string(buffer, std::to_chars(buffer, std::end(buffer), magnitude, base).ptr);
  const auto wanted = static_cast<size_t>(std::max<int64_t>(spec.precision, 0));
  if (out.digits.size() < wanted) out.digits.insert(0, wanted - out.digits.size(), '0');
  if (spec.conversion == 'X') UpperCaseAscii(out.digits);
  out.front = integer < 0 ? "-" : "";
  if (spec.alternate && base != 10) out.front += std::string("0") + spec.conversion;
  return out;
}

// "%#g": all significant digits, also those that are zeros behind the point.
std::string AllDigits(double magnitude, int digits) {
  const std::string scientific = ScientificText(magnitude, digits - 1);
  int exponent = 0;
  const char* begin = scientific.data() + scientific.find('e') + 1;
  begin += *begin == '+' ? 1 : 0;
  std::from_chars(begin, scientific.data() + scientific.size(), exponent);
  const bool fixed = exponent >= -4 && exponent < digits;
  return fixed ? FixedText(magnitude, digits - 1 - exponent) : scientific;
}

Number WriteFloat(const Spec& spec, const Value& value) {
  const double magnitude = std::fabs(value.AsFloat());
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
  const char conversion = static_cast<char>(spec.conversion | 0x20);
  const bool alternate = spec.alternate && std::isfinite(magnitude);
  std::string digits = conversion == 'f'   ? FixedText(magnitude, precision)
                       : conversion == 'e' ? ScientificText(magnitude, precision)
                       : alternate         ? AllDigits(magnitude, std::max(precision, 1))
                                           : GeneralText(magnitude, precision);
  if (alternate && digits.find('.') == digits.npos) {
    digits.insert(std::min(digits.find('e'), digits.size()), 1, '.');
  }
  if (spec.conversion != conversion) UpperCaseAscii(digits);
  return {std::signbit(value.AsFloat()) && !std::isnan(value.AsFloat()) ? "-" : "", digits};
}

std::string WriteCharacter(const Value& value) {
  if (value.Is(Type::kString) && !value.AsString().empty() &&
      static_cast<size_t>(text::CharLength(value.AsString(), 0)) == value.AsString().size()) {
    return value.AsString();
  }
  FIREQ_CHECK(value.Is(Type::kInt) && value.AsInt() >= 0 && value.AsInt() <= 0x10FFFF,
              kInvalidArgument, "%c needs a character, got ", value.TypeName());
  std::string out;
  text::AppendUtf8(out, static_cast<char32_t>(value.AsInt()));
  return out;
}

// What becomes of one value.
std::string Write(const Spec& spec, const Value& value) {
  std::string front;
  std::string body;
  bool numeric = false;
  if (spec.conversion == 's' || spec.conversion == 'r') {
    if (spec.conversion == 's') body = value.ToString();
    if (spec.conversion == 'r') value.AppendRepr(body);
    if (spec.precision >= 0) {
      size_t end = 0;
      for (int64_t i = 0; i < spec.precision && end < body.size(); ++i) {
        end += static_cast<size_t>(text::CharLength(body, end));
      }
      body.resize(std::min(end, body.size()));
    }
  } else if (spec.conversion == 'c') {
    body = WriteCharacter(value);
  } else {
    FIREQ_CHECK(value.IsNumber(), kInvalidArgument, "%", spec.conversion, " needs a number, got ",
                value.TypeName());
    const bool real = std::string_view("fFeEgG").find(spec.conversion) != std::string_view::npos;
    const Number number = real ? WriteFloat(spec, value) : WriteInteger(spec, value);
    numeric = true;
    front = number.front;
    body = number.digits;
    if (!front.starts_with('-') && (spec.plus || spec.space)) {
      front.insert(0, 1, spec.plus ? '+' : ' ');
    }
  }
  const auto size = static_cast<int64_t>(text::ToUtf32(front + body).size());
  const auto room = static_cast<size_t>(std::max<int64_t>(spec.width - size, 0));
  if (spec.left) return front + body + std::string(room, ' ');
  if (spec.zero && numeric) return front + std::string(room, '0') + body;
  return std::string(room, ' ') + front + body;
}

}  // namespace

std::string FormatPercent(std::string_view format, const Value& value) {
  const List single = {value};
  const List& values = value.Is(Type::kTuple) ? value.AsList() : single;
  std::string out;
  size_t used = 0;
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    SpecReader reader(format, at + 1);
    const Spec spec = reader.Read();
    at = reader.at();
    if (spec.conversion == '%') {
      out += '%';
    } else if (spec.has_key) {
      FIREQ_CHECK(value.Is(Type::kDict), kInvalidArgument, "the format \"", format,
                  "\" needs a dict, got ", value.TypeName());
      const Value* entry = value.Find(spec.key);
      FIREQ_CHECK(entry != nullptr, kInvalidArgument, "the format \"", format, "\" needs '",
                  spec.key, "'");
      out += Write(spec, *entry);
    } else {
      FIREQ_CHECK(used < values.size(), kInvalidArgument, "not enough values for the format \"",
                  format, "\"");
      out += Write(spec, values[used++]);
    }
    FIREQ_CHECK(static_cast<int64_t>(out.size()) <= kMaxWeight, kUnsupported,
                "formatting makes more than ", kMaxWeight, " bytes");
  }
  FIREQ_CHECK(used == values.size() || !value.Is(Type::kTuple), kInvalidArgument,
              "too many values for the format \"", format, "\"");
  return out;
}

}  // namespace fireq::jinja
