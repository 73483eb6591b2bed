// The byte alphabet of byte-level BPE: every byte is written as one printable character.
//
// Source: GPT-2. Printable Latin-1 bytes stand for themselves; the other 68 bytes, in order, are
// U+0100, U+0101, ...
#pragma once

#include <string>
#include <string_view>

namespace fireq::text {

// The character that stands for `byte`.
char32_t ByteToChar(unsigned char byte);

// Appends the alphabet form (UTF-8) of every byte of `bytes`.
void AppendByteLevel(std::string& out, std::string_view bytes);

// The bytes that `text` (valid UTF-8) stands for; false, leaving `out` unspecified, if a character
// is outside the alphabet.
bool FromByteLevel(std::string_view text, std::string* out);

}  // namespace fireq::text
