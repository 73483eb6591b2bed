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

TEST(TinySpec, IsATokenizer) {
  const Tokenizer tokenizer(TinySpec(), {}, "tiny");
  EXPECT_EQ(tokenizer.Encode("abcab a"), (std::vector<int32_t>{257, 256, 258}));
  EXPECT_EQ(tokenizer.vocab_size(), 261);
}

}  // namespace fireq::text
