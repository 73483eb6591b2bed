// Writes safetensors, one file or shards with an index, holding no tensor's bytes itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "fireq/io/atomic_file.h"
#include "fireq/tensor/tensor.h"

namespace fireq {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

inline constexpr int64_t kDefaultShardBytes = int64_t{5} << 30;

// All tensors are declared first, which fixes every offset and takes the disk space; their bytes
// then come in any order, each once, so that memory holds one tensor at a time. Files appear only
// at Finish; without it nothing is left behind. Not synchronised.
class SafetensorsWriter {
 public:
  // model.safetensors in `directory`, or model-00001-of-0000N.safetensors and the index if the
  // tensors' bytes exceed `max_shard_bytes` (a tensor is never split). Within a file tensors lie by
  // descending element size, so that each is aligned. Errors: kInvalidArgument (a name declared
  // twice), kNotFound (no such directory), kIo (above all: not enough disk space).
  SafetensorsWriter(const std::filesystem::path& directory, const std::vector<TensorSpec>& tensors,
                    int64_t max_shard_bytes = kDefaultShardBytes);

  // Host tensor of exactly the declared dtype and shape. Errors: kInvalidArgument (not declared, or
  // written before), kShapeMismatch, kIo.
  void Write(const std::string& name, const Tensor& tensor);

  // Errors: kInvalidArgument naming tensors that were declared and never written; kIo.
  void Finish();

 private:
  struct Slot {
    size_t shard = 0;
    DType dtype = DType::kF32;
    Shape shape;
    int64_t offset = 0;  // in the file
    bool written = false;
  };
  void StartShard(const std::filesystem::path& directory, const std::string& file_name,
                  std::vector<TensorSpec> tensors);

  std::filesystem::path directory_;
  std::vector<std::string> file_names_;
  std::vector<AtomicFile> files_;
  std::map<std::string, Slot> slots_;
  int64_t total_bytes_ = 0;
};

}  // namespace fireq
