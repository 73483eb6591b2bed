#include "fireq/text/utf8.h"

#include <cstring>

namespace fireq::text {
namespace {

// What a lead byte promises: total length and the range of its second byte (Unicode, table 3-7).
struct Lead {
  int length;
  unsigned char second_min;
  unsigned char second_max;
};

Lead ClassifyLead(unsigned char byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Bytes at the front of `text` that could still become one character: the whole sequence if it is
// valid, the maximal well-formed beginning otherwise; `length` receives the promised length.
size_t WellFormedPrefix(std::string_view text, int* length) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) {
    *length = 1;
    return 1;
  }
  const Lead lead = ClassifyLead(first);
  *length = lead.length;
  if (lead.length == 0) return 0;
  size_t have = 1;
  while (have < static_cast<size_t>(lead.length) && have < text.size()) {
    const auto byte = static_cast<unsigned char>(text[have]);
    const unsigned char min = have == 1 ? lead.second_min : 0x80;
    const unsigned char max = have == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) break;
    ++have;
  }
  return have;
}

}  // namespace

DecodedChar DecodeFirst(std::string_view text) {
  if (text.empty()) return {};
  int length = 0;
  const size_t have = WellFormedPrefix(text, &length);
  if (length == 0 || have < static_cast<size_t>(length)) return {};
  const auto first = static_cast<unsigned char>(text[0]);
  if (length == 1) return {first, 1};
  char32_t code = first & (0xFF >> (length + 1));
  for (int i = 1; i < length; ++i) code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
  return {code, length};
}

size_t PreviousChar(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

void AppendUtf8(std::string& out, char32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) code = kReplacementChar;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight = 0;
    while (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) != 0) break;
      at += 8;
    }
    if (at >= text.size()) break;
    int length = 0;
    const size_t have = WellFormedPrefix(text.substr(at, 4), &length);
    if (length == 0 || have < static_cast<size_t>(length)) return at;
    at += have;
  }
  return kNoOffset;
}

size_t IncompleteTail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    if (byte < 0x80) return 0;
    int length = 0;
    const size_t have = WellFormedPrefix(text.substr(text.size() - back), &length);
    return length > 0 && have == back && back < static_cast<size_t>(length) ? back : 0;
  }
  return 0;
}

void AppendRepaired(std::string& out, std::string_view text) {
  while (!text.empty()) {
    const size_t valid = std::min(FindInvalidUtf8(text), text.size());
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) return;
    int length = 0;
    const size_t have = WellFormedPrefix(text, &length);
    text.remove_prefix(have == 0 ? 1 : have);
    AppendUtf8(out, kReplacementChar);
  }
}

std::u32string ToUtf32(std::string_view valid_text) {
  std::u32string out;
  out.reserve(valid_text.size());
  while (!valid_text.empty()) {
    const DecodedChar c = DecodeFirst(valid_text);
    out += c.code;
    valid_text.remove_prefix(c.length == 0 ? 1 : c.length);
  }
  return out;
}

bool IsWhiteSpace(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

}  // namespace fireq::text
