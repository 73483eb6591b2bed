#include "fireq/text/detokenizer.h"

#include "fireq/base/error.h"
#include "fireq/text/utf8.h"
#include "tests/text/text_testing.h"

namespace fireq::text {
namespace {

std::string Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                   DetokenizerOptions options = {}) {
  Detokenizer stream(tokenizer, std::move(options));
  std::string out;
  for (const int32_t id : ids) {
    const std::string piece = stream.Add(id);
    EXPECT_EQ(FindInvalidUtf8(piece), kNoOffset) << "a character was split";
    out += piece;
  }
  return out + stream.Flush();
}

TEST(Detokenizer, NeverSplitsACharacter) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  const std::string text = "a\xE2\x82\xAC\xF0\x9F\x99\x82 abc\xC3\xA9";
  EXPECT_EQ(Stream(tokenizer, tokenizer.Encode(text)), text);
}

TEST(Detokenizer, BrokenBytesBecomeReplacementCharacters) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  EXPECT_EQ(Stream(tokenizer, {0xE2, 0x82, 'a', 0xFF, 'b', 0xF0}),
            "\xEF\xBF\xBD"
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
}

TEST(Detokenizer, HoldsBackWhatMayBecomeAStop) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  Detokenizer stream(tokenizer, {.stops = {"xyz", "yy"}});
  EXPECT_EQ(stream.Add('a'), "a");
  EXPECT_EQ(stream.Add('x'), "");
  EXPECT_EQ(stream.Add('x'), "x");
  EXPECT_EQ(stream.Add('y'), "");
  EXPECT_EQ(stream.Add('z'), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.stop(), "xyz");
  EXPECT_EQ(stream.Add('b'), "");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Detokenizer, OfTwoStopsTheOneThatBeginsFirstCounts) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  for (const std::vector<std::string>& stops :
       {std::vector<std::string>{"xy", "y"}, std::vector<std::string>{"y", "xy"}}) {
    Detokenizer stream(tokenizer, {.stops = stops});
    EXPECT_EQ(stream.Add('a'), "a");
    EXPECT_EQ(stream.Add('x'), "");
    EXPECT_EQ(stream.Add('y'), "");
    EXPECT_EQ(stream.stop(), "xy");
  }
}

TEST(Detokenizer, FlushGivesAnUnfinishedStop) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  EXPECT_EQ(Stream(tokenizer, {'a', 'x', 'y'}, {.stops = {"xyz"}}), "axy");
}

TEST(Detokenizer, SkipsSpecialTokensOnRequest) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  EXPECT_EQ(Stream(tokenizer, {259, 'a', 260}), "<s>a<tool>");
  EXPECT_EQ(Stream(tokenizer, {259, 'a', 260}, {.skip_special = true}), "a<tool>");
}

TEST(Detokenizer, RefusesNegativeIdsAndEmptyStops) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  EXPECT_THROW(Stream(tokenizer, {-1}), Error);
  EXPECT_THROW(Detokenizer(tokenizer, {.stops = {""}}), Error);
  EXPECT_EQ(Stream(tokenizer, {100'000}), "");
}

// The front space of SentencePiece-style models comes back off, in any number of steps.
TEST(Detokenizer, EqualsWholeDecodeAtEverySplit) {
  FIREQ_NEEDS_DATA("tokenizers/llama2-hf");
  const std::string text = "  na\xC3\xAFve \xF0\x9F\xA6\x99 (s) \xE4\xBD\xA0\xE5\xA5\xBD\n\n x";
  for (const char* name : {"llama2-hf", "smollm2", "llama3.1"}) {
    const Tokenizer tokenizer = LoadDataTokenizer(name);
    const std::vector<int32_t> ids = tokenizer.Encode(text, {.add_special = false});
    for (size_t cut = 0; cut <= ids.size(); ++cut) {
      const std::vector<int32_t> some(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(cut));
      EXPECT_EQ(Stream(tokenizer, some), tokenizer.Decode(some)) << name << " " << cut;
    }
    EXPECT_EQ(tokenizer.Decode(ids), text) << name;
  }
}

}  // namespace
}  // namespace fireq::text
