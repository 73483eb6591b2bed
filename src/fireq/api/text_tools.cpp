#include "fireq/api/text_tools.h"

#include "fireq/io/gguf.h"
#include "fireq/text/gguf_tokenizer.h"

namespace fireq {

TextTools LoadTextTools(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path))
    return {text::Tokenizer::Load(path), text::ChatTemplate::Load(path)};
  const auto file = GgufFile::Open(path);
  const text::TokenizerFiles files = text::ConvertGgufTokenizer(file->metadata(), path.string());
  return {text::Tokenizer(files.tokenizer, files.config, path.string()),
          text::ChatTemplate::FromConfig(files.config)};
}

}  // namespace fireq
