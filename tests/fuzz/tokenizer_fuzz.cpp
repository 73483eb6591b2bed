// Whatever the tokenizer.json and the text, ids or an Error; and streaming gives what Decode gives.
#include "fireq/base/error.h"
#include "fireq/text/detokenizer.h"
#include "fireq/text/utf8.h"
#include "tests/fuzz/fuzzing.h"

namespace fireq::text {
namespace {

void CheckText(const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  Detokenizer stream(tokenizer, {.stops = {"ab"}});
  std::string streamed;
  for (const int32_t id : ids) {
    Require(id >= 0 && id < tokenizer.vocab_size());
    streamed += stream.Add(id);
  }
  streamed += stream.Flush();
  const std::string whole = tokenizer.Decode(ids);
  Require(FindInvalidUtf8(streamed) == kNoOffset);
  Require(streamed == whole.substr(0, whole.find("ab")));
}

}  // namespace
}  // namespace fireq::text

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fireq;
  const std::string input(reinterpret_cast<const char*>(data), size);
  // The file, a zero byte, a text.
  const size_t cut = input.find('\0');
  try {
    const text::Tokenizer tokenizer(ParseJson(input.substr(0, cut), "fuzz"), {}, "fuzz");
    text::CheckText(tokenizer, "Hello  ab\n12\xC3\xA9 <s>\xF0\x9F\x99\x82");
    if (cut != input.npos) text::CheckText(tokenizer, input.substr(cut + 1));
  } catch (const Error&) {
  }
  return 0;
}
