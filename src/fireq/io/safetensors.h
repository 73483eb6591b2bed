// Safetensors files and sharded directories: reader and writer.
//
// A file is: 8 bytes little-endian header length n, n bytes of JSON, then the tensors' bytes:
//   {"__metadata__":{str:str}, NAME:{"dtype":"F32","shape":[..],"data_offsets":[begin,end]}, ...}
// Source: the safetensors format description (README of huggingface/safetensors).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/io/mapped_file.h"
#include "fireq/tensor/tensor.h"

namespace fireq {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = int64_t{100} << 20;

// One tensor of a file, checked against the file's size, its own shape and every other tensor.
struct SafetensorsEntry {
  std::string dtype;  // as the file spells it; it may be one that DType lacks
  Shape shape;
  int64_t offset = 0;  // from the start of the file
  int64_t size_bytes = 0;
};

// One file. Immutable and thread-safe; tensors keep the mapping alive.
class SafetensorsFile {
 public:
  // Validates the whole header before returning. Errors, each naming the file and the tensor or
  // value: kCorrupt (length beyond the file or above 100 MB, bad JSON, unknown dtype, overflow of a
  // shape, offsets that disagree with shape x dtype, leave the file, overlap or leave holes),
  // kNotFound, kIo.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool Has(const std::string& name) const { return entries_.contains(name); }

  // A read-only host view of the mapped bytes, or an aligned copy if the file has them at an
  // address that their dtype cannot be read from. Errors: kNotFound, kUnsupported for a dtype that
  // FireQ has no use for (F64, BOOL, ...).
  Tensor Get(const std::string& name) const;

 private:
  void ParseHeader(std::string_view text, int64_t data_begin);
  void CheckTiling(int64_t data_begin) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// The tensors of a Hugging Face directory: model.safetensors, or the shards that
// model.safetensors.index.json names. Immutable and thread-safe.
class SafetensorsDirectory {
 public:
  // Opens and validates every shard. Errors: those of SafetensorsFile; kNotFound naming all missing
  // shards, or if the directory has no safetensors at all; kCorrupt if the index is malformed,
  // points outside the directory or at a tensor that its shard lacks.
  explicit SafetensorsDirectory(const std::filesystem::path& directory);

  bool Has(const std::string& name) const { return file_of_.contains(name); }
  Tensor Get(const std::string& name) const;
  const SafetensorsEntry& Entry(const std::string& name) const;
  // Sorted.
  std::vector<std::string> Names() const;
  // For messages: the file that holds `name`.
  const std::filesystem::path& PathOf(const std::string& name) const;
  const std::filesystem::path& directory() const { return directory_; }

 private:
  void OpenIndex(const std::filesystem::path& index);
  const SafetensorsFile& FileOf(const std::string& name) const;

  std::filesystem::path directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;
};

}  // namespace fireq
