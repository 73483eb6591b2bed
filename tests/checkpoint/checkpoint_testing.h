// Small models on disk for the tests of checkpoints.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "fireq/checkpoint/model_config_json.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/formats/bf16.h"
#include "fireq/io/atomic_file.h"
#include "fireq/io/safetensors_writer.h"

namespace fireq {

// The folder of real data, if the environment names one.
inline std::optional<std::filesystem::path> TestData() {
  const char* folder = std::getenv("FIREQ_TEST_DATA");
  if (folder == nullptr || *folder == 0) return std::nullopt;
  return folder;
}

// 2 layers, D 40, F 24, heads 4/2 of 8, vocabulary 19: no dimension that another has.
inline ModelConfig SmallConfig() {
  ModelConfig c;
  c.family = "llama";
  c.architecture = "LlamaForCausalLM";
  c.num_layers = 2;
  c.hidden = 40;
  c.ffn = 24;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 8;
  c.vocab_size = 19;
  c.max_context = 64;
  c.bos_id = 1;
  c.eos_ids = {2};
  return c;
}

// Random values that BF16 and F16 hold exactly, so that every container gives the same floats.
using SmallWeights = std::map<std::string, std::vector<float>>;
inline SmallWeights RandomSmallWeights(const ModelConfig& config, uint32_t seed) {
  std::mt19937 random(seed);
  SmallWeights weights;
  for (const NamedShape& tensor : FloatTensors(config)) {
    std::vector<float>& values = weights[tensor.name];
    for (int64_t i = 0; i < NumElements(tensor.shape); ++i) {
      values.push_back(static_cast<float>(static_cast<int>(random() % 255) - 127) / 64.0f);
    }
  }
  return weights;
}

// IEEE half of a value that it holds exactly and normally.
inline uint16_t ExactHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value == 0.0f) return 0;
  const uint32_t exponent = ((bits >> 23) & 0xFF) - 112;
  return static_cast<uint16_t>(((bits >> 16) & 0x8000) | (exponent << 10) | ((bits >> 13) & 0x3FF));
}

inline Tensor Encode(const std::vector<float>& values, const Shape& shape, DType dtype) {
  if (dtype == DType::kF32) return Tensor::FromVector(dtype, shape, values);
  std::vector<uint16_t> bits;
  for (const float v : values) {
    bits.push_back(dtype == DType::kF16 ? ExactHalf(v) : FloatToBf16(v));
  }
  return Tensor::FromVector(dtype, shape, bits);
}

inline void WriteConfig(const std::filesystem::path& directory, const nlohmann::json& json) {
  WriteTextFile(directory / "config.json", json.dump());
}

inline void WriteSmallModel(const std::filesystem::path& directory, const ModelConfig& config,
                            const SmallWeights& weights, DType dtype = DType::kF32,
                            int64_t max_shard_bytes = kDefaultShardBytes) {
  std::filesystem::create_directories(directory);
  std::vector<TensorSpec> specs;
  for (const NamedShape& t : FloatTensors(config)) specs.push_back({t.name, dtype, t.shape});
  SafetensorsWriter writer(directory, specs, max_shard_bytes);
  for (const TensorSpec& t : specs) {
    writer.Write(t.name, Encode(weights.at(t.name), t.shape, dtype));
  }
  writer.Finish();
  WriteConfig(directory, ToHuggingFaceJson(config));
}

}  // namespace fireq
