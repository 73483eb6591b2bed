// UTF-8: decoding, validation, repair, and where a text may be cut.
//
// "Valid" is the Unicode sense: shortest form only, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fireq::text {

inline constexpr size_t kNoOffset = std::string_view::npos;
inline constexpr char32_t kReplacementChar = 0xFFFD;

// One character at the front of a text; length 0 says that the bytes there are not valid.
struct DecodedChar {
  char32_t code = 0;
  int length = 0;  // bytes, 1..4
};

// Decodes the first character of `text`; length 0 for an empty, truncated or invalid sequence.
DecodedChar DecodeFirst(std::string_view text);

// Length in bytes of the character that starts at text[at] of a VALID text.
inline int CharLength(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// Start of the character that ends before `at` (> 0) in a VALID text.
size_t PreviousChar(std::string_view text, size_t at);

// Appends `code` (a scalar value; anything else becomes U+FFFD).
void AppendUtf8(std::string& out, char32_t code);

// Byte offset of the first invalid sequence, or kNoOffset.
size_t FindInvalidUtf8(std::string_view text);

// Number of bytes (0..3) at the end of `text` that are a proper beginning of a valid character.
size_t IncompleteTail(std::string_view text);

// Appends `text`; every maximal invalid part becomes one U+FFFD (Unicode, section 3.9).
void AppendRepaired(std::string& out, std::string_view text);

std::u32string ToUtf32(std::string_view valid_text);

// Unicode White_Space.
bool IsWhiteSpace(char32_t code);

}  // namespace fireq::text
