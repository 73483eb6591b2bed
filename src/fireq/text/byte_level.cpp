#include "fireq/text/byte_level.h"

#include <array>

#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> MakeAlphabet() {
  std::array<char32_t, 256> chars{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    chars[byte] = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return chars;
}

constexpr std::array<char32_t, 256> kAlphabet = MakeAlphabet();
constexpr int kAlphabetEnd = 0x144;  // 0x100 + the 68 bytes that do not stand for themselves

constexpr std::array<short, kAlphabetEnd> MakeInverse() {
  std::array<short, kAlphabetEnd> bytes{};
  for (short& b : bytes) b = -1;
  for (int byte = 0; byte < 256; ++byte) bytes[kAlphabet[byte]] = static_cast<short>(byte);
  return bytes;
}

constexpr std::array<short, kAlphabetEnd> kInverse = MakeInverse();

}  // namespace

char32_t ByteToChar(unsigned char byte) { return kAlphabet[byte]; }

void AppendByteLevel(std::string& out, std::string_view bytes) {
  for (const char c : bytes) AppendUtf8(out, kAlphabet[static_cast<unsigned char>(c)]);
}

bool FromByteLevel(std::string_view text, std::string* out) {
  out->clear();
  while (!text.empty()) {
    const DecodedChar c = DecodeFirst(text);
    if (c.length == 0 || c.code >= kAlphabetEnd || kInverse[c.code] < 0) return false;
    *out += static_cast<char>(kInverse[c.code]);
    text.remove_prefix(c.length);
  }
  return true;
}

}  // namespace fireq::text
