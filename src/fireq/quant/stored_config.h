// What a recipe means for one model's checkpoint: the "quantization_config" it will state.
#pragma once

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/quant/recipe.h"

namespace fireq::quant {

// Throws kUnsupported, naming the keys to change, if the model cannot have what the recipe asks
// for.
QuantConfig MakeQuantConfig(const ModelConfig& config, const Recipe& recipe);

}  // namespace fireq::quant
