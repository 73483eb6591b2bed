// Methods of str, dict, list and tuple that do not change them (Jinja's immutable sandbox refuses
// the others), and the text functions they share with filters.
#include <algorithm>

#include "fireq/base/error.h"
#include "fireq/text/jinja/runtime.h"
#include "fireq/text/unicode_normal.h"
#include "fireq/text/utf8.h"

namespace fireq::jinja {
namespace {

using Type = Value::Type;
using Method = Value (*)(const Value& self, const Arguments& arguments);

struct Row {
  std::string_view name;
  Method method;
};

bool IsPySpace(char32_t code) { return text::IsWhiteSpace(code) || (code >= 0x1C && code <= 0x1F); }

Value StripMethod(std::string_view name, const Value& self, const Arguments& arguments, bool left,
                  bool right) {
  const std::string chars = ArgumentReader(name, arguments, {"chars"}).String("chars", "");
  return Text(Strip(self.AsString(), chars, left, right));
}

// Whether the text begins (or ends) with the argument, a str or a tuple of them.
template <class Matches>
Value Affix(std::string_view name, const Arguments& arguments, const Matches& matches) {
  const Value& affix = ArgumentReader(name, arguments, {"affix"}).Need("affix");
  const auto matches_one = [&](const Value& v) {
    FIREQ_CHECK(v.Is(Type::kString), kInvalidArgument, name, " needs a str, got ", v.TypeName());
    return matches(v.AsString());
  };
  return Value::Bool(affix.Is(Type::kTuple) ? std::ranges::any_of(affix.AsList(), matches_one)
                                            : matches_one(affix));
}

// Cuts at white space: at most `max` cuts, runs count as one.
List SplitSpace(std::string_view rest, int64_t max) {
  List parts;
  while (true) {
    rest = Strip(rest, "", true, false);
    if (rest.empty()) return parts;
    size_t end = 0;
    while (end < rest.size() && !IsPySpace(text::DecodeFirst(rest.substr(end)).code)) {
      end += static_cast<size_t>(text::CharLength(rest, end));
    }
    if (max >= 0 && static_cast<int64_t>(parts.size()) == max) end = rest.size();
    parts.push_back(Text(rest.substr(0, end)));
    rest.remove_prefix(std::min(end, rest.size()));
  }
}

Value Split(const Value& self, const Arguments& arguments) {
  const ArgumentReader in("split", arguments, {"sep", "maxsplit"});
  const int64_t max = in.Int("maxsplit", -1);
  const Value* separator = in.Get("sep");
  if (separator == nullptr || separator->Is(Type::kNone)) {
    return Value::MakeList(SplitSpace(self.AsString(), max));
  }
  const std::string by = in.String("sep", "");
  FIREQ_CHECK(!by.empty(), kInvalidArgument, "split: the separator is empty");
  List parts;
  std::string_view rest = self.AsString();
  while (max < 0 || static_cast<int64_t>(parts.size()) < max) {
    const size_t at = rest.find(by);
    if (at == rest.npos) break;
    parts.push_back(Text(rest.substr(0, at)));
    rest.remove_prefix(at + by.size());
  }
  parts.push_back(Text(rest));
  return Value::MakeList(std::move(parts));
}

Value RightSplit(const Value& self, const Arguments& arguments) {
  const ArgumentReader in("rsplit", arguments, {"sep", "maxsplit"});
  const std::string by = in.String("sep", "");
  FIREQ_CHECK(!by.empty(), kUnsupported, "rsplit without a separator is not supported");
  const int64_t max = in.Int("maxsplit", -1);
  List parts;
  std::string_view rest = self.AsString();
  while (max < 0 || static_cast<int64_t>(parts.size()) < max) {
    const size_t at = rest.rfind(by);
    if (at == rest.npos) break;
    parts.push_back(Text(rest.substr(at + by.size())));
    rest = rest.substr(0, at);
  }
  parts.push_back(Text(rest));
  std::ranges::reverse(parts);
  return Value::MakeList(std::move(parts));
}

Value SplitLines(const Value& self, const Arguments& arguments) {
  const bool keep = ArgumentReader("splitlines", arguments, {"keepends"}).Bool("keepends", false);
  List lines;
  for (std::string_view rest = self.AsString(); !rest.empty();) {
    const Line line = FirstLine(rest);
    lines.push_back(Text(rest.substr(0, line.size + (keep ? line.end_size : 0))));
    rest.remove_prefix(line.size + line.end_size);
  }
  return Value::MakeList(std::move(lines));
}

// str.find and str.rfind, in characters.
Value FindText(std::string_view name, const Value& self, const Arguments& arguments, bool last) {
  const std::string part = ArgumentReader(name, arguments, {"sub"}).String("sub", "");
  const std::string& text = self.AsString();
  const size_t at = last ? text.rfind(part) : text.find(part);
  if (at == text.npos) return Value::Int(-1);
  return Value::Int(Length(Text(std::string_view(text).substr(0, at))));
}

Value Partition(std::string_view name, const Value& self, const Arguments& arguments, bool last) {
  const std::string by = ArgumentReader(name, arguments, {"sep"}).String("sep", "");
  FIREQ_CHECK(!by.empty(), kInvalidArgument, name, ": the separator is empty");
  const std::string_view text = self.AsString();
  const size_t at = last ? text.rfind(by) : text.find(by);
  if (at == text.npos) {
    return last ? Value::Tuple({Text(""), Text(""), self})
                : Value::Tuple({self, Text(""), Text("")});
  }
  return Value::Tuple({Text(text.substr(0, at)), Text(by), Text(text.substr(at + by.size()))});
}

// True if there are characters and all of them satisfy `matches`.
Value AllChars(std::string_view text, bool (*matches)(char32_t)) {
  const std::u32string codes = text::ToUtf32(text);
  return Value::Bool(!codes.empty() && std::ranges::all_of(codes, matches));
}

Value Count(const Value& self, const Arguments& arguments) {
  const Value& item = ArgumentReader("count", arguments, {"sub"}).Need("sub");
  if (self.IsSequence()) {
    return Value::Int(
        std::ranges::count_if(self.AsList(), [&](const Value& v) { return Equal(v, item); }));
  }
  FIREQ_CHECK(item.Is(Type::kString), kInvalidArgument, "count needs a str, got ", item.TypeName());
  if (item.AsString().empty()) return Value::Int(Length(self) + 1);
  int64_t count = 0;
  const std::string& text = self.AsString();
  for (size_t at = text.find(item.AsString()); at != text.npos;
       at = text.find(item.AsString(), at + item.AsString().size())) {
    ++count;
  }
  return Value::Int(count);
}

Value Join(const Value& self, const Arguments& arguments) {
  const Value& items = ArgumentReader("join", arguments, {"iterable"}).Need("iterable");
  Runtime runtime;
  std::string out;
  const char* gap = nullptr;
  for (const Value& item : Iterate(runtime, items)) {
    FIREQ_CHECK(item.Is(Type::kString), kInvalidArgument, "join needs str items, got ",
                item.TypeName());
    if (gap != nullptr) out += self.AsString();
    out += item.AsString();
    gap = "";
    FIREQ_CHECK(static_cast<int64_t>(out.size()) <= kMaxWeight, kUnsupported,
                "join makes more than ", kMaxWeight, " bytes");
  }
  return Value::String(std::move(out));
}

Value Replace(const Value& self, const Arguments& arguments) {
  const ArgumentReader in("replace", arguments, {"old", "new", "count"});
  in.Need("old");
  in.Need("new");
  return Value::String(ReplaceText(self.AsString(), in.String("old", ""), in.String("new", ""),
                                   in.Int("count", -1)));
}

constexpr Row kStringMethods[] = {
    {"upper",
     [](const Value& s, const Arguments&) { return Value::String(text::UpperCase(s.AsString())); }},
    {"lower",
     [](const Value& s, const Arguments&) { return Value::String(text::LowerCase(s.AsString())); }},
    {"strip",
     [](const Value& s, const Arguments& a) { return StripMethod("strip", s, a, true, true); }},
    {"lstrip",
     [](const Value& s, const Arguments& a) { return StripMethod("lstrip", s, a, true, false); }},
    {"rstrip",
     [](const Value& s, const Arguments& a) { return StripMethod("rstrip", s, a, false, true); }},
    {"startswith",
     [](const Value& s, const Arguments& a) {
       return Affix("startswith", a,
                    [&](const std::string& x) { return s.AsString().starts_with(x); });
     }},
    {"endswith",
     [](const Value& s, const Arguments& a) {
       return Affix("endswith", a, [&](const std::string& x) { return s.AsString().ends_with(x); });
     }},
    {"removeprefix",
     [](const Value& s, const Arguments& a) {
       const std::string affix = ArgumentReader("removeprefix", a, {"prefix"}).String("prefix", "");
       const std::string_view text = s.AsString();
       return Text(text.starts_with(affix) ? text.substr(affix.size()) : text);
     }},
    {"removesuffix",
     [](const Value& s, const Arguments& a) {
       const std::string affix = ArgumentReader("removesuffix", a, {"suffix"}).String("suffix", "");
       const std::string_view text = s.AsString();
       return Text(text.ends_with(affix) ? text.substr(0, text.size() - affix.size()) : text);
     }},
    {"split", Split},
    {"rsplit", RightSplit},
    {"splitlines", SplitLines},
    {"join", Join},
    {"replace", Replace},
    {"find", [](const Value& s, const Arguments& a) { return FindText("find", s, a, false); }},
    {"rfind", [](const Value& s, const Arguments& a) { return FindText("rfind", s, a, true); }},
    {"count", Count},
    {"partition",
     [](const Value& s, const Arguments& a) { return Partition("partition", s, a, false); }},
    {"rpartition",
     [](const Value& s, const Arguments& a) { return Partition("rpartition", s, a, true); }},
    {"title",
     [](const Value& s, const Arguments&) { return Value::String(TitleCase(s.AsString(), true)); }},
    {"capitalize", [](const Value& s,
                      const Arguments&) { return Value::String(TitleCase(s.AsString(), false)); }},
    {"isdigit",
     [](const Value& s, const Arguments&) {
       return AllChars(s.AsString(), [](char32_t c) { return c >= '0' && c <= '9'; });
     }},
    {"isalpha",
     [](const Value& s, const Arguments&) { return AllChars(s.AsString(), text::IsLetter); }},
    {"isalnum",
     [](const Value& s, const Arguments&) {
       return AllChars(s.AsString(),
                       [](char32_t c) { return text::IsLetter(c) || text::IsNumber(c); });
     }},
    {"isspace", [](const Value& s, const Arguments&) { return AllChars(s.AsString(), IsPySpace); }},
    {"islower",
     [](const Value& s, const Arguments&) {
       return Value::Bool(text::LowerCase(s.AsString()) == s.AsString() &&
                          text::UpperCase(s.AsString()) != s.AsString());
     }},
    {"isupper",
     [](const Value& s, const Arguments&) {
       return Value::Bool(text::UpperCase(s.AsString()) == s.AsString() &&
                          text::LowerCase(s.AsString()) != s.AsString());
     }},
};

constexpr Row kDictMethods[] = {
    {"get",
     [](const Value& d, const Arguments& a) {
       const ArgumentReader in("get", a, {"key", "default"});
       const Value* entry = d.Find(in.Need("key"));
       if (entry != nullptr) return *entry;
       return in.Get("default") != nullptr ? *in.Get("default") : Value::None();
     }},
    {"keys",
     [](const Value& d, const Arguments&) {
       List out;
       for (const auto& entry : d.AsDict()) out.push_back(entry.first);
       return Value::MakeList(std::move(out));
     }},
    {"values",
     [](const Value& d, const Arguments&) {
       List out;
       for (const auto& entry : d.AsDict()) out.push_back(entry.second);
       return Value::MakeList(std::move(out));
     }},
    {"items",
     [](const Value& d, const Arguments&) {
       List out;
       for (const auto& entry : d.AsDict())
         out.push_back(Value::Tuple({entry.first, entry.second}));
       return Value::MakeList(std::move(out));
     }},
    {"copy", [](const Value& d, const Arguments&) { return d; }},
};

constexpr Row kListMethods[] = {
    {"count", Count},
    {"copy", [](const Value& l, const Arguments&) { return l; }},
    {"index",
     [](const Value& l, const Arguments& a) {
       const Value& item = ArgumentReader("index", a, {"value"}).Need("value");
       for (size_t i = 0; i < l.AsList().size(); ++i) {
         if (Equal(l.AsList()[i], item)) return Value::Int(static_cast<int64_t>(i));
       }
       Throw(ErrorCode::kInvalidArgument, "index: the value is not in the list");
     }},
};

// What Python has besides, so that it is refused by name instead of being taken for undefined.
// Methods that change their value are left out: Jinja's sandbox has them undefined as well.
constexpr std::string_view kOtherStringMethods[] = {
    "casefold",  "center",    "encode",       "expandtabs", "format",    "format_map",  "index",
    "isascii",   "isdecimal", "isidentifier", "ljust",      "isnumeric", "isprintable", "istitle",
    "maketrans", "rindex",    "rjust",        "swapcase",   "translate", "zfill"};
constexpr std::string_view kOtherNumberMethods[] = {
    "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
    "from_bytes",       "fromhex",   "hex",        "imag",      "is_integer",
    "numerator",        "real",      "to_bytes"};

Method FindMethod(const Value& self, std::string_view name) {
  const auto find = [&](const auto& rows) -> Method {
    const auto* row = std::ranges::find(rows, name, &Row::name);
    return row == std::end(rows) ? nullptr : row->method;
  };
  if (self.Is(Type::kString)) return find(kStringMethods);
  if (self.Is(Type::kDict)) return find(kDictMethods);
  return self.IsSequence() ? find(kListMethods) : nullptr;
}

// Bytes of the end of a line at the front of `text`; 0: there is none.
size_t LineEndSize(std::string_view text) {
  const auto [code, length] = text::DecodeFirst(text);
  const bool ends = (code >= '\n' && code <= '\r') || (code >= 0x1C && code <= 0x1E) ||
                    code == 0x85 || code == 0x2028 || code == 0x2029;
  return text.starts_with("\r\n") ? 2 : ends ? static_cast<size_t>(length) : 0;
}

}  // namespace

Line FirstLine(std::string_view text) {
  for (size_t at = 0; at < text.size(); ++at) {
    const size_t end = LineEndSize(text.substr(at));
    if (end > 0) return {at, end};
  }
  return {text.size(), 0};
}

bool HasMethod(const Value& self, std::string_view name) {
  return FindMethod(self, name) != nullptr;
}

void RefuseUnsupportedMethod(const Value& self, std::string_view name) {
  const auto among = [&](const auto& names) {
    return std::ranges::find(names, name) != std::end(names);
  };
  const bool number = self.IsNumber() && !self.Is(Type::kBool);
  FIREQ_CHECK(!(self.Is(Type::kString) && among(kOtherStringMethods)) &&
                  !(number && among(kOtherNumberMethods)),
              kUnsupported, "the method '", name, "' of ", self.TypeName(), " is not supported");
}

Value CallMethod(const Value& self, std::string_view name, const Arguments& arguments) {
  return FindMethod(self, name)(self, arguments);
}

std::string_view Strip(std::string_view text, std::string_view chars, bool left, bool right) {
  const auto strips = [&](std::string_view at) {
    const std::string_view one = at.substr(0, static_cast<size_t>(text::CharLength(at, 0)));
    return chars.empty() ? IsPySpace(text::DecodeFirst(one).code) : chars.find(one) != chars.npos;
  };
  while (left && !text.empty() && strips(text)) {
    text.remove_prefix(std::min(text.size(), static_cast<size_t>(text::CharLength(text, 0))));
  }
  while (right && !text.empty() && strips(text.substr(text::PreviousChar(text, text.size())))) {
    text = text.substr(0, text::PreviousChar(text, text.size()));
  }
  return text;
}

std::string ReplaceText(std::string_view text, std::string_view from, std::string_view to,
                        int64_t max_count) {
  FIREQ_CHECK(!from.empty(), kUnsupported, "replace: an empty text to replace is not supported");
  std::string out;
  size_t at = 0;
  for (size_t hit = text.find(from); hit != text.npos && max_count != 0; --max_count) {
    out.append(text.substr(at, hit - at)).append(to);
    at = hit + from.size();
    hit = text.find(from, at);
    FIREQ_CHECK(static_cast<int64_t>(out.size()) <= kMaxWeight, kUnsupported,
                "replace makes more than ", kMaxWeight, " bytes");
  }
  return out.append(text.substr(at));
}

std::string TitleCase(std::string_view text, bool every_word) {
  std::string out;
  bool at_word_start = true;
  while (!text.empty()) {
    const auto size = std::min(text.size(), static_cast<size_t>(text::CharLength(text, 0)));
    const std::string_view one = text.substr(0, size);
    out += at_word_start ? text::UpperCase(one) : text::LowerCase(one);
    at_word_start = every_word && !text::IsLetter(text::DecodeFirst(one).code);
    text.remove_prefix(size);
  }
  return out;
}

}  // namespace fireq::jinja
