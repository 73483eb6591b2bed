// Whatever the template, text within the limits or an Error.
#include "fireq/base/error.h"
#include "fireq/text/chat_template.h"
#include "fireq/text/utf8.h"
#include "tests/fuzz/fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fireq;
  using Json = nlohmann::ordered_json;
  const std::string source(reinterpret_cast<const char*>(data), size);
  const Json messages = {{{"role", "system"}, {"content", "be kind"}},
                         {{"role", "user"}, {"content", "  hi \xC3\xA9 "}},
                         {{"role", "assistant"}, {"content", nullptr}, {"n", 1.5}}};
  text::RenderOptions options;
  options.now = 0;
  options.extra = {{"tools", {{{"type", "function"}}}}, {"a", {3, 1, 2}}, {"s", "Hello World"}};
  try {
    const text::ChatTemplate chat(source, {{"bos_token", "<s>"}});
    const std::string text = chat.Render(messages, options);
    Require(text::FindInvalidUtf8(text) == text::kNoOffset);
  } catch (const Error&) {
  }
  return 0;
}
