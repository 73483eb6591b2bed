// Tokenizers inside real GGUF files, id for id: llama.cpp's vocabulary-only files beside the edge
// cases it keeps for each, and the whole of wiki.test.raw for Llama-2 and Llama-3.
//
// FIREQ_TEST_VOCABS names a folder with ggml-vocab-*.gguf and their .inp and .out (the source
// package of llama-cpp-python has them under vendor/llama.cpp/models).
#include <algorithm>

#include "fireq/base/error.h"
#include "fireq/io/gguf.h"
#include "fireq/text/gguf_tokenizer.h"
#include "tests/text/text_testing.h"

namespace fireq::text {
namespace {

std::filesystem::path VocabFolder() {
  const char* folder = std::getenv("FIREQ_TEST_VOCABS");
  return folder == nullptr ? std::filesystem::path() : std::filesystem::path(folder);
}

Tokenizer LoadVocab(const std::filesystem::path& path) {
  const auto file = GgufFile::Open(path);
  const TokenizerFiles files = ConvertGgufTokenizer(file->metadata(), path.filename());
  return {files.tokenizer, files.config, path.filename()};
}

class GgufVocab : public testing::Test {
 protected:
  void SetUp() override {
    if (VocabFolder().empty()) GTEST_SKIP() << "FIREQ_TEST_VOCABS is not set";
  }
};

TEST_F(GgufVocab, EdgeCasesOfEveryVocabularyThatIsSupported) {
  std::vector<std::string> supported;
  for (const auto& entry : std::filesystem::directory_iterator(VocabFolder())) {
    const std::filesystem::path path = entry.path();
    if (path.extension() != ".gguf" || !std::filesystem::exists(path.string() + ".inp")) continue;
    const std::string name = path.stem().string().substr(std::string("ggml-vocab-").size());
    try {
      const Tokenizer tokenizer = LoadVocab(path);
      ExpectEdgeCases(tokenizer, path.string());
      supported.push_back(name);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
      EXPECT_NE(std::string(error.what()).find("tokenizer.ggml."), std::string::npos)
          << error.what();
    }
  }
  for (const char* name : {"llama-spm", "llama-bpe", "qwen2", "gpt-2"}) {
    EXPECT_TRUE(std::ranges::count(supported, name) == 1) << name;
  }
}

TEST_F(GgufVocab, Llama2OnWholeWiki) {
  FIREQ_NEEDS_DATA("golden/tokens");
  ExpectWholeText(LoadVocab(VocabFolder() / "ggml-vocab-llama-spm.gguf"),
                  "golden/tokens/wiki.test.raw.llama2.ids.gz");
}

TEST_F(GgufVocab, Llama3OnWholeWiki) {
  FIREQ_NEEDS_DATA("golden/tokens");
  ExpectWholeText(LoadVocab(VocabFolder() / "ggml-vocab-llama-bpe.gguf"),
                  "golden/tokens/wiki.test.raw.llama3.ids.gz");
}

}  // namespace
}  // namespace fireq::text
