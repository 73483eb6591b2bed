// Whatever the tokenizer.json and the text, ids or an Error; and streaming gives what Decode gives.
#include "fireq/base/error.h"
#include "tests/fuzz/tokenizing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fireq;
  const std::string input(reinterpret_cast<const char*>(data), size);
  // The file, a zero byte, a text.
  const size_t cut = input.find('\0');
  try {
    const text::Tokenizer tokenizer(ParseJson(input.substr(0, cut), "fuzz"), {}, "fuzz");
    CheckText(tokenizer, kSomeText);
    if (cut != input.npos) CheckText(tokenizer, input.substr(cut + 1));
  } catch (const Error&) {
  }
  return 0;
}
