// Small random Llama-like models on disk, and their forward pass in double precision.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "fireq/checkpoint/model_config.h"

namespace fireq::test {

// 2 layers, D 96, F 160, 6 query and 2 KV heads of 16, vocabulary 67: no multiple of 128 anywhere.
ModelConfig TinyConfig();

// Weights by Hugging Face name, row-major, in FP32; the same seed gives the same weights.
using TinyWeights = std::map<std::string, std::vector<float>>;
TinyWeights RandomWeights(const ModelConfig& config, uint64_t seed);

// Writes a Hugging Face directory (config.json, model.safetensors in F32) without a tokenizer.
void WriteHuggingFace(const std::filesystem::path& directory, const ModelConfig& config,
                      const TinyWeights& weights);

// Logits [T][V] of the float model over `ids` from an empty cache, in double, by the textbook:
// written apart from src/fireq/model so that the two can disagree.
std::vector<std::vector<double>> ReferenceLogits(const ModelConfig& config,
                                                 const TinyWeights& weights,
                                                 const std::vector<int32_t>& ids);

}  // namespace fireq::test
