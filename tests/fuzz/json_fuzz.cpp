// Whatever the text, ParseJson gives what nlohmann gives, or an Error.
#include "fireq/base/error.h"
#include "fireq/io/json.h"
#include "tests/fuzz/fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const nlohmann::json json = fireq::ParseJson(text, "fuzz");
    fireq::Require(json == nlohmann::json::parse(text));
    fireq::DescribeJson(json);
  } catch (const fireq::Error&) {
  }
  return 0;
}
