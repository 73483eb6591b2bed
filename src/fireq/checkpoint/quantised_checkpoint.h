// The quantised checkpoint that FireQ writes and serves: reader and writer (docs/FORMATS.md).
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/io/atomic_directory.h"
#include "fireq/io/safetensors.h"
#include "fireq/io/safetensors_writer.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq {

// Immutable and thread-safe; tensors are read-only views of mapped files.
class QuantisedCheckpoint {
 public:
  // Checks configuration, names, dtypes and shapes. Errors name the file and the JSON path or the
  // tensor: kNotFound, kCorrupt, kUnsupported (a newer format version).
  explicit QuantisedCheckpoint(const std::filesystem::path& directory);

  const ModelConfig& config() const { return config_; }
  const QuantConfig& quant() const { return quant_; }
  const std::filesystem::path& directory() const { return tensors_.directory(); }

  // Linears are named as LinearName() does: no ".weight".
  bool IsExcluded(const std::string& linear) const { return excluded_.contains(linear); }
  // Values are validated too. Errors: kInvalidArgument for an excluded linear or a name that
  // is none; kCorrupt.
  WeightI4 LoadLinear(const std::string& linear) const;
  bool Has(const std::string& name) const { return tensors_.Has(name); }
  // Any other tensor of StoredTensors(), as stored; checked to be finite. Errors: kNotFound,
  // kCorrupt.
  Tensor Load(const std::string& name) const;

 private:
  void CheckTensors() const;

  SafetensorsDirectory tensors_;
  ModelConfig config_;
  QuantConfig quant_;
  std::set<std::string> excluded_;
  std::map<std::string, Shape> linears_;
};

// True if `directory` holds a config.json whose quantization_config.quant_method is "fireq".
bool IsQuantisedCheckpoint(const std::filesystem::path& directory);

// Writes a quantised checkpoint with at most one tensor in memory. The directory appears at Finish
// (AtomicDirectory); before that an existing checkpoint of the same name stays as it is.
class QuantisedCheckpointWriter {
 public:
  // Takes the disk space of all tensors. Errors: those of AtomicDirectory and SafetensorsWriter.
  QuantisedCheckpointWriter(const std::filesystem::path& target, ModelConfig config,
                            QuantConfig quant, int64_t max_shard_bytes = kDefaultShardBytes);

  const std::filesystem::path& target() const { return directory_.target(); }

  // Each linear that is not excluded, once, in any order. Errors: those of CheckWeightI4;
  // kShapeMismatch if it is not the shape of the model's.
  void WriteLinear(const std::string& linear, const WeightI4& stored);
  // Every other tensor of StoredTensors(), in the dtype listed there.
  void Write(const std::string& name, const Tensor& tensor);
  // A file beside the tensors, such as tokenizer.json. Errors: kInvalidArgument if `name` is not a
  // plain file name or is one that the writer itself writes.
  void AddFile(const std::string& name, std::string_view text);

  // All tensors are there: writes config.json, and the checkpoint can be read from this directory,
  // where it lies until Finish.
  const std::filesystem::path& Complete();
  // Moves the directory into place.
  void Finish();

 private:
  AtomicDirectory directory_;
  ModelConfig config_;
  QuantConfig quant_;
  std::map<std::string, Shape> linears_;
  SafetensorsWriter tensors_;
  bool complete_ = false;
};

}  // namespace fireq
