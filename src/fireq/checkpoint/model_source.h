// A float model, whatever its container: tensors under Hugging Face names, in Hugging Face's order.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/tensor/tensor.h"

namespace fireq {

class GgufFile;  // io/gguf.h

enum class ModelKind : uint8_t {
  kHuggingFace,     // a directory with config.json and safetensors in F32, F16 or BF16
  kGguf,            // a .gguf file
  kFireqQuantised,  // a directory that FireQ wrote: open it with QuantisedCheckpoint
};

// By looking into `path`, not at its name. Errors: kNotFound if there is no such path or a
// directory has no config.json; kUnsupported for a file that is not GGUF or another project's
// quantisation (by its name); kCorrupt.
ModelKind DetectModelKind(const std::filesystem::path& path);

// Immutable after Open and thread-safe.
class ModelSource {
 public:
  // Validates everything but the tensors' values: configuration, every tensor's presence, shape
  // and dtype, and that there is none that FireQ would silently ignore. Errors: those of
  // DetectModelKind; kUnsupported (a quantised FireQ checkpoint; a feature, by its name),
  // kNotFound (a shard or tensors, by name), kCorrupt, kIo.
  static std::shared_ptr<const ModelSource> Open(const std::filesystem::path& path);
  virtual ~ModelSource() = default;

  const ModelConfig& config() const { return config_; }
  // The path it was opened with, for messages.
  const std::filesystem::path& path() const { return path_; }

  // Names are those of FloatTensors(config()) in checkpoint/schema.h.
  virtual bool Has(const std::string& name) const = 0;
  // Host tensor in F32, F16 or BF16 as stored (a read-only view where possible); quantised GGUF
  // types come back as F32. Errors: kNotFound.
  virtual Tensor Load(const std::string& name) const = 0;
  // The same as F32. The result may alias the file: do not write to it.
  Tensor LoadF32(const std::string& name) const;
  // LoadF32 followed by CheckFinite: for everything that quantises.
  Tensor LoadFiniteF32(const std::string& name) const;

  // The files that hold the weights.
  virtual std::vector<std::filesystem::path> WeightFiles() const { return {path_}; }

  // Where the tokenizer is: the directory with tokenizer.json, or the GGUF file's metadata.
  virtual std::filesystem::path tokenizer_directory() const { return {}; }  // empty: none
  virtual std::shared_ptr<const GgufFile> gguf() const { return nullptr; }

  // Files that belong to the model and are copied beside its quantised form as they are
  // (tokenizer, chat template, generation settings). Empty for GGUF.
  virtual std::vector<std::filesystem::path> AuxiliaryFiles() const { return {}; }

 protected:
  ModelSource(std::filesystem::path path, ModelConfig config)
      : path_(std::move(path)), config_(std::move(config)) {}

 private:
  std::filesystem::path path_;
  ModelConfig config_;
};

// F32 of an F32, F16 or BF16 host tensor; F32 input comes back as it is. kUnsupported otherwise.
Tensor ToF32(const Tensor& tensor, const std::string& name);

// Whether an F32, F16 or BF16 host tensor holds neither a NaN nor an infinity.
bool IsFinite(const Tensor& tensor);
// Throws kCorrupt, naming the tensor, the value and its index ("w: NaN at [3, 17]"), if an F32, F16
// or BF16 host tensor holds a NaN or an infinity.
void CheckFinite(const Tensor& tensor, const std::string& name);

}  // namespace fireq
