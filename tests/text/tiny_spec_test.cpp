#include "fireq/text/byte_level.h"
#include "fireq/text/utf8.h"
#include "tests/text/text_testing.h"

namespace fireq::text {

nlohmann::json TinySpec() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string name;
    AppendUtf8(name, ByteToChar(static_cast<unsigned char>(byte)));
    vocab[name] = byte;
  }
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  vocab
      ["\xC4\xA0"
       "a"] = 258;
  return {
      {"added_tokens",
       {{{"id", 259}, {"content", "<s>"}, {"special", true}, {"normalized", false}},
        {{"id", 260}, {"content", "<tool>"}, {"special", false}, {"normalized", false}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c", "\xC4\xA0 a"}}}}};
}

TEST(AddedTokens, TheLongestThatBeginsThereCounts) {
  nlohmann::json spec = TinySpec();
  const auto add = [&](int id, const char* content, const char* flag) {
    nlohmann::json token = {{"id", id}, {"content", content}, {"normalized", false}};
    if (*flag != '\0') token[flag] = true;
    spec["added_tokens"].push_back(token);
  };
  add(261, "<s>abc", "");
  add(262, "abc!", "single_word");
  add(263, "<pad>", "lstrip");
  add(264, "<end>", "rstrip");
  const Tokenizer tokenizer(spec, {}, "tiny");
  const auto encode = [&](const char* text) {
    return tokenizer.Encode(text, {.add_special = false, .parse_special = true});
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(encode("<s>abc"), (Ids{261}));
  EXPECT_EQ(encode("<s>abab"), (Ids{259, 256, 256}));
  EXPECT_EQ(encode("abc!"), (Ids{262}));
  EXPECT_EQ(encode("ab abc! c"), (Ids{256, 32, 262, 32, 'c'}));
  EXPECT_EQ(encode("ababc!"), (Ids{256, 257, '!'}));  // within a word
  EXPECT_EQ(encode("abc!c"), (Ids{257, '!', 'c'}));
  EXPECT_EQ(encode("ab  <pad> c"), (Ids{256, 263, 32, 'c'}));
  EXPECT_EQ(encode("ab <end>  c"), (Ids{256, 32, 264, 'c'}));
  // A text that is a stranger's: control tokens are their letters, others are not.
  EXPECT_EQ(tokenizer.Encode("<s>", {.add_special = false, .parse_special = false}),
            (Ids{'<', 's', '>'}));
  EXPECT_EQ(tokenizer.Encode("<tool>", {.add_special = false, .parse_special = false}), (Ids{260}));
}

TEST(TinySpec, IsATokenizer) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  EXPECT_EQ(tokenizer.Encode("abcab a"), (std::vector<int32_t>{257, 256, 258}));
  EXPECT_EQ(tokenizer.vocab_size(), 261);
}

}  // namespace fireq::text
