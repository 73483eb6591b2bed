// A configuration that parses is printed as JSON that parses to the same; the quantisation too.
#include "fireq/base/error.h"
#include "fireq/checkpoint/model_config_json.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/io/json.h"
#include "tests/fuzz/fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const nlohmann::json json = fireq::ParseJson(text, "fuzz");
    const nlohmann::json printed =
        fireq::ToHuggingFaceJson(fireq::ParseModelConfig(json, "config.json"));
    fireq::Require(printed ==
                   fireq::ToHuggingFaceJson(fireq::ParseModelConfig(printed, "printed")));
    if (!json.contains("quantization_config")) return 0;
    const nlohmann::json quant =
        fireq::ToJson(fireq::ParseQuantConfig(json.at("quantization_config")));
    fireq::Require(quant == fireq::ToJson(fireq::ParseQuantConfig(quant)));
  } catch (const fireq::Error&) {
  }
  return 0;
}
