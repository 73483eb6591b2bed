#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "fireq/api/fireq.h"
#include "fireq/checkpoint/model_config_json.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/checkpoint/quantised_checkpoint.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/io/ggml_types.h"
#include "fireq/io/gguf.h"
#include "fireq/io/safetensors.h"

namespace fireq {
namespace {

using Json = nlohmann::ordered_json;

// Tensors and bytes by stored type.
class Census {
 public:
  void Add(const std::string& type, int64_t elements, int64_t bytes) {
    Row& row = rows_[type];
    ++row.tensors;
    row.elements += elements;
    row.bytes += bytes;
  }
  Json ToJson() const {
    Json out = Json::object();
    for (const auto& [type, row] : rows_)
      out[type] = {{"tensors", row.tensors}, {"elements", row.elements}, {"bytes", row.bytes}};
    return out;
  }

 private:
  struct Row {
    int64_t tensors = 0, elements = 0, bytes = 0;
  };
  std::map<std::string, Row> rows_;
};

Json DescribeConfig(const ModelConfig& c) {
  int64_t parameters = 0;
  for (const NamedShape& tensor : FloatTensors(c)) parameters += NumElements(tensor.shape);
  Json out = {{"architecture", c.architecture},
              {"parameters", parameters},
              {"layers", c.num_layers},
              {"hidden", c.hidden},
              {"ffn", c.ffn},
              {"heads", c.num_heads},
              {"kv_heads", c.num_kv_heads},
              {"head_dim", c.head_dim},
              {"vocabulary", c.vocab_size},
              {"max_context", c.max_context},
              {"rope_theta", c.rope.theta},
              {"rope_scaling", c.rope.scaling == RopeScaling::kLlama3 ? "llama3" : "none"},
              {"tied_embeddings", c.tied_embeddings},
              {"eos_ids", c.eos_ids}};
  return out;
}

Json CensusOf(const std::filesystem::path& directory) {
  const SafetensorsDirectory tensors(directory);
  Census census;
  for (const std::string& name : tensors.Names()) {
    const SafetensorsEntry& entry = tensors.Entry(name);
    census.Add(entry.dtype, NumElements(entry.shape), entry.size_bytes);
  }
  return census.ToJson();
}

Json CensusOf(const GgufFile& file) {
  Census census;
  for (const auto& [name, entry] : file.entries())
    census.Add(std::string(FindGgmlType(entry.type)->name), NumElements(entry.shape),
               entry.size_bytes);
  return census.ToJson();
}

Json DescribeTensorFile(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  Json out = {{"kind", "safetensors file"}, {"path", path.string()}};
  Json tensors = Json::object();
  for (const auto& [name, entry] : file.entries())
    tensors[name] = {{"dtype", entry.dtype}, {"shape", entry.shape}, {"bytes", entry.size_bytes}};
  out["tensors"] = std::move(tensors);
  return out;
}

}  // namespace

std::string InspectJson(const std::string& path_or_alias, const RuntimeOptions& options) {
  const std::filesystem::path path = ResolveModel(path_or_alias, options);
  if (path.extension() == ".safetensors") return DescribeTensorFile(path).dump();
  Json out;
  if (DetectModelKind(path) == ModelKind::kFireqQuantised) {
    const QuantisedCheckpoint checkpoint(path);
    out = {{"kind", "FireQ quantised checkpoint"}, {"path", path.string()}};
    out.update(DescribeConfig(checkpoint.config()));
    out["quantization_config"] = ToJson(checkpoint.quant());
    out["tensors"] = CensusOf(path);
    return out.dump();
  }
  const auto source = ModelSource::Open(path);
  const bool gguf = source->gguf() != nullptr;
  out = {{"kind", gguf ? "GGUF model" : "Hugging Face model"}, {"path", path.string()}};
  out.update(DescribeConfig(source->config()));
  out["tensors"] = gguf ? CensusOf(*source->gguf()) : CensusOf(path);
  return out.dump();
}

}  // namespace fireq
