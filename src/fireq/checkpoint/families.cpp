#include "fireq/checkpoint/families.h"

#include <string>

#include "fireq/base/error.h"

namespace fireq {
namespace {

constexpr Family kFamilies[] = {
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .gguf_architecture = "llama",
     .always_qkv_bias = false,
     .qk_norm = false,
     .gguf_permutes_qk = true,
     .sliding_window_needs_switch = false,
     .default_sliding_window = 0},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .gguf_architecture = "",  // converted as "llama"
     .always_qkv_bias = false,
     .qk_norm = false,
     .gguf_permutes_qk = true,
     .sliding_window_needs_switch = false,
     .default_sliding_window = 4096},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .gguf_architecture = "qwen2",
     .always_qkv_bias = true,
     .qk_norm = false,
     .gguf_permutes_qk = false,
     .sliding_window_needs_switch = true,
     .default_sliding_window = 0},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .gguf_architecture = "qwen3",
     .always_qkv_bias = false,
     .qk_norm = true,
     .gguf_permutes_qk = false,
     .sliding_window_needs_switch = true,
     .default_sliding_window = 0},
};

std::string Listed(std::string_view Family::*field) {
  std::string out;
  for (const Family& family : kFamilies) {
    if ((family.*field).empty()) continue;
    out += (out.empty() ? "" : ", ") + std::string(family.*field);
  }
  return out;
}

}  // namespace

std::span<const Family> Families() { return kFamilies; }

const Family& FamilyOfConfig(std::string_view architecture, std::string_view model_type,
                             std::string_view place) {
  for (const Family& family : kFamilies) {
    if (architecture.empty() ? family.model_type == model_type
                             : family.architecture == architecture) {
      FIREQ_CHECK(model_type.empty() || family.model_type == model_type, kUnsupported, place,
                  ": model_type \"", model_type, "\" does not go with architecture ", architecture);
      return family;
    }
  }
  FIREQ_CHECK(!architecture.empty(), kUnsupported, place, ": model_type \"", model_type,
              "\" is not supported (supported: ", Listed(&Family::model_type), ")");
  Throw(ErrorCode::kUnsupported,
        StrCat(place, ": architecture \"", architecture,
               "\" is not supported (supported: ", Listed(&Family::architecture), ")"));
}

const Family& FamilyOfGguf(std::string_view gguf_architecture, std::string_view place) {
  for (const Family& family : kFamilies) {
    if (!gguf_architecture.empty() && family.gguf_architecture == gguf_architecture) return family;
  }
  Throw(ErrorCode::kUnsupported,
        StrCat(place, ": general.architecture \"", gguf_architecture,
               "\" is not supported (supported: ", Listed(&Family::gguf_architecture), ")"));
}

}  // namespace fireq
