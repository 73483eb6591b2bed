#include "fireq/text/unicode_normal.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "fireq/base/error.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// Below U+00C0 nothing decomposes canonically; below U+0300 nothing combines, and the Latin-1
// letters are composed already.
bool IsTriviallyNormal(std::string_view text, NormalForm form) {
  const char32_t limit = form == NormalForm::kNfc ? 0x300 : form == NormalForm::kNfd ? 0xC0 : 0x80;
  const auto lead_limit = limit == 0x300 ? 0xCC : limit == 0xC0 ? 0xC3 : 0x80;
  return std::ranges::all_of(text, [&](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0xC0 ? (byte < 0x80 || lead_limit > 0x80) : byte < lead_limit;
  });
}

std::vector<utf8proc_int32_t> Decompose(std::string_view text, int options) {
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size() + 1);
  while (!text.empty()) {
    const DecodedChar c = DecodeFirst(text);
    text.remove_prefix(static_cast<size_t>(std::max(c.length, 1)));
    utf8proc_int32_t parts[32];  // no character has more than 18
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.code), parts, std::size(parts),
                                static_cast<utf8proc_option_t>(options), nullptr);
    FIREQ_CHECK(count >= 0 && count <= static_cast<ptrdiff_t>(std::size(parts)), kInternal,
                "normalising U+", static_cast<int64_t>(c.code), ": ", utf8proc_errmsg(count));
    out.insert(out.end(), parts, parts + count);
  }
  return out;
}

bool IsMark(int category) {
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

int CombiningClass(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Canonical ordering: marks between two starters sorted by class, equal classes in order.
void SortMarks(std::vector<utf8proc_int32_t>& codes) {
  auto at = codes.begin();
  while (at != codes.end()) {
    if (CombiningClass(*at) == 0) {
      ++at;
      continue;
    }
    const auto end =
        std::find_if(at, codes.end(), [](auto code) { return CombiningClass(code) == 0; });
    std::stable_sort(at, end, [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    at = end;
  }
}

std::string ToUtf8(const std::vector<utf8proc_int32_t>& codes) {
  std::string out;
  out.reserve(codes.size());
  for (const auto code : codes) AppendUtf8(out, static_cast<char32_t>(code));
  return out;
}

struct CodeRange {
  char32_t first, last;
};

// What combines or decomposes since a Unicode later than 9. Hugging Face's library normalises by
// the tables of Unicode 9, where these are starters that stay as they are; so do its ids.
constexpr CodeRange kSinceUnicode9[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
    {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785}, {0x10787, 0x107B0},
    {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
    {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

bool IsSinceUnicode9(char32_t code) {
  if (code < kSinceUnicode9[0].first) return false;
  const auto* range = std::ranges::lower_bound(kSinceUnicode9, code, {}, &CodeRange::last);
  return range != std::end(kSinceUnicode9) && range->first <= code;
}

// Text without characters of kSinceUnicode9.
std::string NormalizePart(std::string_view text, NormalForm form) {
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  std::vector<utf8proc_int32_t> codes = Decompose(text, options);
  SortMarks(codes);
  if (compose && !codes.empty()) {
    const auto size = static_cast<utf8proc_ssize_t>(codes.size());
    const auto left = utf8proc_normalize_utf32(
        codes.data(), size, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    FIREQ_CHECK(left >= 0, kInternal, "composing ", size, " characters: ", utf8proc_errmsg(left));
    codes.resize(static_cast<size_t>(left));
  }
  return ToUtf8(codes);
}

template <class Map>
std::string MapChars(std::string_view text, const Map& map) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const DecodedChar c = DecodeFirst(text);
    text.remove_prefix(static_cast<size_t>(std::max(c.length, 1)));
    map(out, c.code);
  }
  return out;
}

}  // namespace

std::string NormalizeUnicode(std::string_view text, NormalForm form) {
  if (IsTriviallyNormal(text, form)) return std::string(text);
  std::string out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const DecodedChar c = DecodeFirst(text.substr(at));
    const auto size = static_cast<size_t>(std::max(c.length, 1));
    if (IsSinceUnicode9(c.code)) {
      out += NormalizePart(text.substr(begin, at - begin), form);
      out += text.substr(at, size);
      begin = at + size;
    }
    at += size;
  }
  return out + NormalizePart(text.substr(begin), form);
}

std::string LowerCase(std::string_view text) {
  return MapChars(text, [](std::string& out, char32_t code) {
    // The one character whose lower case is two (Unicode SpecialCasing, unconditional).
    if (code == 0x130) return out.append("i\xCC\x87"), void();
    AppendUtf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(code))));
  });
}

std::string UpperCase(std::string_view text) {
  return MapChars(text, [](std::string& out, char32_t code) {
    if (code == 0xDF) return out.append("SS"), void();
    AppendUtf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<int32_t>(code))));
  });
}

std::string StripAccents(std::string_view text) {
  return MapChars(text, [](std::string& out, char32_t code) {
    if (!IsMark(utf8proc_category(static_cast<int32_t>(code)))) AppendUtf8(out, code);
  });
}

bool IsPunctuation(char32_t code) {
  if (code < 0x80) {
    return (code >= 33 && code <= 47) || (code >= 58 && code <= 64) || (code >= 91 && code <= 96) ||
           (code >= 123 && code <= 126);
  }
  const auto category = utf8proc_category(static_cast<int32_t>(code));
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool IsLetter(char32_t code) {
  const auto category = utf8proc_category(static_cast<int32_t>(code));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsNumber(char32_t code) {
  const auto category = utf8proc_category(static_cast<int32_t>(code));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsWordChar(char32_t code) {
  const auto category = utf8proc_category(static_cast<int32_t>(code));
  return IsLetter(code) || IsMark(category) || category == UTF8PROC_CATEGORY_ND ||
         category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC || code == 0x200C ||
         code == 0x200D;
}

bool IsPrintable(char32_t code) {
  switch (utf8proc_category(static_cast<int32_t>(code))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return code == ' ';
    default:
      return true;
  }
}

}  // namespace fireq::text
