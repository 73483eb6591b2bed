#include "fireq/checkpoint/quantised_checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/checkpoint/model_config_json.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/io/json.h"

namespace fireq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.json";

// {N, K} of every linear of the model, by name.
std::map<std::string, Shape> LinearShapes(const ModelConfig& config) {
  std::map<std::string, Shape> shapes;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Linear linear : kLinears) {
      shapes[LinearName(layer, linear)] = LinearShape(config, linear);
    }
  }
  return shapes;
}

const Shape& ShapeOf(const std::map<std::string, Shape>& linears, const std::string& name) {
  const auto found = linears.find(name);
  FIREQ_CHECK(found != linears.end(), kInvalidArgument, "the model has no linear \"", name, "\"");
  return found->second;
}

// The linears that share one fused GEMM share this name.
std::string LayerGroupOf(const std::string& linear) {
  for (const char* suffix : {"q_proj", "k_proj", "v_proj"}) {
    if (linear.ends_with(suffix)) return linear.substr(0, linear.size() - 6) + "qkv";
  }
  for (const char* suffix : {"gate_proj", "up_proj"}) {
    if (linear.ends_with(suffix)) return linear.substr(0, linear.rfind('.')) + ".gate_up";
  }
  return linear;
}

// What a configuration must fulfil for its checkpoint to be served: excluded names that exist, each
// fused group whole, a Hadamard that fits.
std::set<std::string> CheckedExcluded(const ModelConfig& config, const QuantConfig& quant,
                                      const std::map<std::string, Shape>& linears,
                                      const std::string& place) {
  std::set<std::string> excluded(quant.excluded.begin(), quant.excluded.end());
  std::map<std::string, std::set<bool>> groups;
  for (const auto& [name, shape] : linears) {
    groups[LayerGroupOf(name)].insert(excluded.contains(name));
  }
  for (const std::string& name : excluded) {
    FIREQ_CHECK(linears.contains(name), kCorrupt, place, ": excluded: the model has no linear ",
                DescribeJson(name));
  }
  for (const auto& [group, choices] : groups) {
    FIREQ_CHECK(choices.size() == 1, kUnsupported, place, ": excluded: the linears of ", group,
                " must be excluded all or none");
  }
  const bool power_of_two = (config.head_dim & (config.head_dim - 1)) == 0;
  FIREQ_CHECK(!quant.qk_hadamard || power_of_two, kUnsupported, place,
              ": qk_hadamard: a head dim of ", config.head_dim, " is not a power of two");
  return excluded;
}

}  // namespace

QuantisedCheckpoint::QuantisedCheckpoint(const fs::path& directory) : tensors_(directory) {
  const fs::path path = directory / kConfigName;
  const nlohmann::json json = ReadJsonFile(path);
  config_ = ParseModelConfig(json, path.string());
  const JsonObject object(json, path.string());
  quant_ = ParseQuantConfig(object.Object("quantization_config").value());
  linears_ = LinearShapes(config_);
  excluded_ = CheckedExcluded(config_, quant_, linears_, object.PlaceOf("quantization_config"));
  CheckTensors();
}

void QuantisedCheckpoint::CheckTensors() const {
  const std::string place = directory().string();
  std::set<std::string> expected;
  for (const TensorSpec& spec : StoredTensors(config_, quant_)) {
    expected.insert(spec.name);
    FIREQ_CHECK(tensors_.Has(spec.name), kNotFound, place, ": tensor ", spec.name, " is missing");
    const SafetensorsEntry& entry = tensors_.Entry(spec.name);
    FIREQ_CHECK(entry.dtype == Name(spec.dtype) && entry.shape == spec.shape, kCorrupt, place, ": ",
                spec.name, ": expected ", Name(spec.dtype), " ", ToString(spec.shape), ", got ",
                entry.dtype, " ", ToString(entry.shape));
  }
  for (const std::string& name : tensors_.Names()) {
    FIREQ_CHECK(expected.contains(name), kCorrupt, place, ": ", name,
                ": the format has no such tensor");
  }
}

WeightI4 QuantisedCheckpoint::LoadLinear(const std::string& linear) const {
  const Shape shape = ShapeOf(linears_, linear);
  FIREQ_CHECK(!IsExcluded(linear), kInvalidArgument, directory().string(), ": ", linear,
              " is stored in BF16, not quantised");
  WeightI4 out;
  out.codes = tensors_.Get(linear + kStoredCodes);
  out.scale = tensors_.Get(linear + kStoredScale);
  out.zero = tensors_.Get(linear + kStoredZero);
  out.t = *tensors_.Get(linear + kStoredT).as<float>();
  out.n = shape[0];
  out.k = shape[1];
  CheckWeightI4(out, linear);
  return out;
}

Tensor QuantisedCheckpoint::Load(const std::string& name) const {
  Tensor tensor = tensors_.Get(name);
  CheckFinite(tensor, name);
  return tensor;
}

bool IsQuantisedCheckpoint(const fs::path& directory) {
  try {
    return DetectModelKind(directory) == ModelKind::kFireqQuantised;
  } catch (const Error&) {
    return false;
  }
}

QuantisedCheckpointWriter::QuantisedCheckpointWriter(const fs::path& target, ModelConfig config,
                                                     QuantConfig quant, int64_t max_shard_bytes)
    : directory_(target, IsQuantisedCheckpoint),
      config_(std::move(config)),
      quant_(std::move(quant)),
      linears_(LinearShapes(config_)),
      tensors_(directory_.staging(), StoredTensors(config_, quant_), max_shard_bytes) {
  CheckedExcluded(config_, quant_, linears_, target.string());
}

void QuantisedCheckpointWriter::WriteLinear(const std::string& linear, const WeightI4& stored) {
  const Shape shape = ShapeOf(linears_, linear);
  FIREQ_CHECK(stored.n == shape[0] && stored.k == shape[1], kShapeMismatch, linear, ": expected ",
              ToString(shape), ", got ", ToString({stored.n, stored.k}));
  CheckWeightI4(stored, linear);
  for (const auto& [name, tensor] : PartsOf(stored, linear)) tensors_.Write(name, tensor);
}

void QuantisedCheckpointWriter::Write(const std::string& name, const Tensor& tensor) {
  tensors_.Write(name, tensor);
}

void QuantisedCheckpointWriter::AddFile(const std::string& name, std::string_view text) {
  FIREQ_CHECK(!name.empty() && fs::path(name).filename() == name && !name.starts_with(".") &&
                  name != kConfigName && !name.ends_with(".safetensors") &&
                  !name.ends_with(".safetensors.index.json"),
              kInvalidArgument, "\"", name, "\" cannot be a file beside a checkpoint's tensors");
  WriteTextFile(directory_.staging() / name, text);
}

const fs::path& QuantisedCheckpointWriter::Complete() {
  tensors_.Finish();
  nlohmann::json json = ToHuggingFaceJson(config_);
  json["quantization_config"] = ToJson(quant_);
  WriteTextFile(directory_.staging() / kConfigName, json.dump(2) + "\n");
  complete_ = true;
  return directory_.staging();
}

void QuantisedCheckpointWriter::Finish() {
  if (!complete_) Complete();
  directory_.Commit();
}

}  // namespace fireq
