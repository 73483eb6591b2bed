#include "fireq/text/utf8.h"

#include <gtest/gtest.h>

#include <set>

namespace fireq::text {
namespace {

std::string Encoded(char32_t code) {
  std::string out;
  AppendUtf8(out, code);
  return out;
}

bool IsScalar(char32_t code) { return code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF); }

TEST(Utf8, EveryScalarValueComesBack) {
  for (char32_t code = 0; code <= 0x110000; ++code) {
    const std::string text = Encoded(code);
    const DecodedChar decoded = DecodeFirst(text);
    ASSERT_EQ(decoded.code, IsScalar(code) ? code : kReplacementChar);
    ASSERT_EQ(decoded.length, static_cast<int>(text.size()));
    ASSERT_EQ(CharLength(text, 0), decoded.length);
  }
}

// Of all sequences of a lead byte and a second one the valid are those that an encoder writes: no
// longer forms, no surrogates, nothing above U+10FFFF, no byte out of its place.
TEST(Utf8, OnlyWhatAnEncoderWritesIsValid) {
  std::set<std::string> beginnings;  // the first two bytes of every character
  for (char32_t code = 0x80; code <= 0x10FFFF; ++code)
    if (IsScalar(code)) beginnings.insert(Encoded(code).substr(0, 2));
  for (int first = 0x80; first < 0x100; ++first) {
    for (int second = 0; second < 0x100; ++second) {
      const std::string two = {static_cast<char>(first), static_cast<char>(second)};
      bool valid = false;
      for (const char* rest : {"", "\x80", "\xBF\x80"}) valid |= DecodeFirst(two + rest).length > 0;
      ASSERT_EQ(valid, beginnings.contains(two)) << first << " " << second;
      // Also behind eight bytes that are looked at together; the fifth byte is out of place.
      const std::string text = two + "\x80\x80\x80";
      const int length = DecodeFirst(text).length;
      ASSERT_EQ(FindInvalidUtf8("12345678" + text), 8u + static_cast<size_t>(length))
          << first << " " << second;
    }
  }
}

TEST(Utf8, BrokenPartsBecomeOneReplacementEach) {
  const auto repaired = [](std::string_view text) {
    std::string out;
    AppendRepaired(out, text);
    return out;
  };
  const std::string r = Encoded(kReplacementChar);
  EXPECT_EQ(repaired("a\xE2\x82z"), "a" + r + "z");  // one unfinished character
  EXPECT_EQ(repaired("\xED\xA0\x80"), r + r + r);    // a surrogate: no byte of it begins
  EXPECT_EQ(repaired("\xF0\x9F\x98\xF0\x9F\x98\x80"), r + "\xF0\x9F\x98\x80");
  EXPECT_EQ(repaired("\x80\xFF"), r + r);
}

TEST(Utf8, TailsThatMayStillBecomeACharacter) {
  EXPECT_EQ(IncompleteTail("a"), 0u);
  EXPECT_EQ(IncompleteTail("a\xE2"), 1u);
  EXPECT_EQ(IncompleteTail("a\xE2\x82"), 2u);
  EXPECT_EQ(IncompleteTail("a\xE2\x82\xAC"), 0u);
  EXPECT_EQ(IncompleteTail("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(IncompleteTail("\xED\xA0"), 0u);  // a surrogate never will
  EXPECT_EQ(IncompleteTail("\x80\x80\x80\x80"), 0u);
}

}  // namespace
}  // namespace fireq::text
