// Every tensor of a file that opens can be read or is refused; so can its model configuration and
// its tokenizer.
#include "fireq/base/error.h"
#include "fireq/checkpoint/gguf_source.h"
#include "fireq/io/gguf.h"
#include "fireq/text/gguf_tokenizer.h"
#include "tests/fuzz/tokenizing.h"

namespace fireq {
namespace {

// Or an Error.
template <class Action>
void Try(const Action& action) {
  try {
    action();
  } catch (const Error&) {
  }
}

void Tokenize(const GgufFile& file) {
  const text::TokenizerFiles files = text::ConvertGgufTokenizer(file.metadata(), "fuzz");
  CheckText(text::Tokenizer(files.tokenizer, files.config, "fuzz"), kSomeText);
}

}  // namespace
}  // namespace fireq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fireq;
  const MemoryFile memory(data, size);
  Try([&] {
    const auto file = GgufFile::Open(memory.path());
    for (const auto& entry : file->entries()) {
      Try([&] {
        const Tensor tensor = file->Get(entry.first);
        Touch(tensor.data(), tensor.size_bytes());
      });
    }
    Try([&] { GgufModelConfig(*file); });
    Try([&] { Tokenize(*file); });
  });
  return 0;
}
