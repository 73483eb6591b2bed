// ModelConfig from and to Hugging Face's config.json.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "fireq/checkpoint/model_config.h"

namespace fireq {

// Of any size in a configuration: far above any model, far below where products of two overflow.
inline constexpr int64_t kMaxDim = int64_t{1} << 24;

// `place` names the file in errors ("DIR/config.json"). Errors name the JSON path: kCorrupt for
// missing, mistyped or contradictory values; kUnsupported for an unknown architecture, an active
// sliding window, RoPE scaling other than llama3, an activation other than SiLU, another project's
// quantization_config, ...
ModelConfig ParseModelConfig(const nlohmann::json& json, const std::string& place);

// What ParseModelConfig reads back as an equal ModelConfig, with "torch_dtype": "bfloat16".
nlohmann::json ToHuggingFaceJson(const ModelConfig& config);

// Checks what holds for every source of a ModelConfig (positive sizes, H divisible by Hk, head dim
// a multiple of 8, sizes that do not overflow); errors as above with `place` in front.
void ValidateModelConfig(const ModelConfig& config, const std::string& place);

}  // namespace fireq
