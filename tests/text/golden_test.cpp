// Whole texts and edge cases, id for id, against the published tokenizers.
#include <algorithm>
#include <map>
#include <random>

#include "fireq/text/gguf_tokenizer.h"
#include "fireq/text/utf8.h"
#include "tests/text/text_testing.h"

namespace fireq::text {
namespace {

TEST(GoldenTokenizer, Llama3OnWholeWiki) {
  FIREQ_NEEDS_DATA("tokenizers/llama3.1");
  ExpectWholeText(LoadDataTokenizer("llama3.1"), "golden/tokens/wiki.test.raw.llama3.ids.gz");
}

TEST(GoldenTokenizer, SmolLm2OnWholeWiki) {
  FIREQ_NEEDS_DATA("tokenizers/smollm2");
  ExpectWholeText(LoadDataTokenizer("smollm2"), "golden/smollm2/wiki.test.raw.ids.gz");
}

// The SentencePiece-style file carries another model's vocabulary than the golden Llama-2 ids
// (these are compared in gguf_vocab_test.cpp); what must hold for any text: it comes back.
TEST(GoldenTokenizer, SentencePieceRoundTripOnWholeWiki) {
  FIREQ_NEEDS_DATA("tokenizers/llama2-hf");
  const Tokenizer tokenizer = LoadDataTokenizer("llama2-hf");
  const std::string text = ReadData(kWiki);
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(text), true), text);
}

// GGUF metadata as a converter would write it for `spec`.
nlohmann::json ToGgufMetadata(const nlohmann::json& spec, const std::string& pre) {
  std::map<int64_t, std::string> texts;
  for (const auto& [text, id] : spec["model"]["vocab"].items()) texts[id.get<int64_t>()] = text;
  std::map<int64_t, int> types;
  for (const auto& token : spec["added_tokens"]) {
    texts[token["id"].get<int64_t>()] = token["content"].get<std::string>();
    types[token["id"].get<int64_t>()] = token["special"].get<bool>() ? 3 : 4;
  }
  nlohmann::json tokens = nlohmann::json::array();
  nlohmann::json token_types = nlohmann::json::array();
  for (const auto& [id, text] : texts) {
    tokens.push_back(text);
    token_types.push_back(types.contains(id) ? types[id] : 1);
  }
  nlohmann::json merges = nlohmann::json::array();
  for (const auto& merge : spec["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", pre},
          {"tokenizer.ggml.tokens", tokens},
          {"tokenizer.ggml.token_type", token_types},
          {"tokenizer.ggml.merges", merges},
          {"tokenizer.ggml.bos_token_id", 1},
          {"tokenizer.ggml.eos_token_id", 2},
          {"tokenizer.ggml.add_bos_token", false},
          {"tokenizer.chat_template", "{{ messages }}"}};
}

TEST(GoldenTokenizer, GgufOfSmolLm2OnWholeWiki) {
  FIREQ_NEEDS_DATA("tokenizers/smollm2");
  const nlohmann::json spec =
      nlohmann::json::parse(ReadData("tokenizers/smollm2/tokenizer.json.gz"));
  const TokenizerFiles files = ConvertGgufTokenizer(ToGgufMetadata(spec, "smollm"), "smollm2.gguf");
  const Tokenizer tokenizer(files.tokenizer, files.config, "smollm2.gguf");
  EXPECT_EQ(tokenizer.TokenOf(tokenizer.eos_id()), "<|im_end|>");
  EXPECT_EQ(files.config["chat_template"], "{{ messages }}");
  ExpectWholeText(tokenizer, "golden/smollm2/wiki.test.raw.ids.gz");
}

TEST(GoldenTokenizer, Llama3EdgeCases) {
  FIREQ_NEEDS_DATA("golden/llamacpp-vocab");
  ExpectEdgeCases(LoadDataTokenizer("llama3.1"), "golden/llamacpp-vocab/ggml-vocab-llama-bpe.gguf");
}

TEST(GoldenTokenizer, Qwen2EdgeCases) {
  FIREQ_NEEDS_DATA("golden/llamacpp-vocab");
  ExpectEdgeCases(LoadDataTokenizer("qwen2.5"), "golden/llamacpp-vocab/ggml-vocab-qwen2.gguf");
}

TEST(GoldenTokenizer, SpecialTokensOfLlama3) {
  FIREQ_NEEDS_DATA("tokenizers/llama3.1");
  const Tokenizer tokenizer = LoadDataTokenizer("llama3.1");
  EXPECT_EQ(tokenizer.bos_id(), 128000);
  const std::string text = "hi<|eot_id|>";
  EXPECT_EQ(tokenizer.Encode(text), (std::vector<int32_t>{128000, 6151, 128009}));
  const auto plain = tokenizer.Encode(text, {.add_special = false, .parse_special = false});
  EXPECT_EQ(std::ranges::count(plain, 128009), 0);
  EXPECT_EQ(tokenizer.Decode(plain), text);
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(text), true), "hi");
}

// Characters of all lengths: spaces, marks, digits, letters. No control characters: SmolLM2 has no
// tokens for some of those bytes, and like the Hugging Face library drops them.
std::string RandomText(std::mt19937& random, size_t size) {
  const char32_t starts[] = {0x20, 0x28, 0x30, 0x41, 0x61, 0xC0, 0x300, 0x4E00, 0x1F600, 0xAC00};
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    AppendUtf8(text, starts[random() % std::size(starts)] + random() % 24);
  }
  return text;
}

TEST(TokenizerProperty, DecodeInvertsEncode) {
  FIREQ_NEEDS_DATA("tokenizers/llama3.1");
  std::mt19937 random(7);
  for (const char* name : {"llama3.1", "smollm2", "llama2-hf"}) {
    const Tokenizer tokenizer = LoadDataTokenizer(name);
    for (int i = 0; i < 300; ++i) {
      const std::string text = RandomText(random, random() % 60);
      const auto ids = tokenizer.Encode(text, {.add_special = false, .parse_special = false});
      ASSERT_EQ(tokenizer.Decode(ids), text) << name;
    }
  }
}

}  // namespace
}  // namespace fireq::text
