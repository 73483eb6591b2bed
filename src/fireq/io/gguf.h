// GGUF files, versions 2 and 3, little-endian: metadata, tensor directory, tensors as F32.
//
// magic "GGUF", u32 version, u64 tensor count, u64 key count; keys (string, u32 type, value);
// tensors (string, u32 rank, u64 dims fastest first, u32 type, u64 offset); then, from the next
// multiple of general.alignment (32), the data. Source: the GGUF specification (ggml-org/ggml,
// docs/gguf.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fireq/io/mapped_file.h"
#include "fireq/tensor/tensor.h"

namespace fireq {

struct GgufEntry {
  uint32_t type = 0;       // ggml type id; it may be one that FireQ cannot read
  Shape shape;             // slowest dimension first, as everywhere in FireQ
  int64_t offset = 0;      // from the start of the file
  int64_t size_bytes = 0;  // checked to lie inside the file
};

// Immutable and thread-safe; tensors keep the mapping alive.
class GgufFile {
 public:
  // Validates header, metadata and tensor directory. Errors name the file, the key or tensor and
  // the value: kCorrupt (bad magic, counts and lengths beyond the file, unknown value types, a key
  // or tensor twice, sizes that overflow, misaligned or overlapping offsets, data beyond the file),
  // kUnsupported (version, big-endian file, unknown tensor type), kNotFound, kIo.
  static std::shared_ptr<const GgufFile> Open(const std::filesystem::path& path);

  // True if the file begins with the magic. Errors: kNotFound, kIo.
  static bool IsGguf(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  int64_t version() const { return version_; }
  // One object: key -> number, bool, string (bytes as stored: not necessarily UTF-8) or array.
  const nlohmann::json& metadata() const { return metadata_; }
  const std::map<std::string, GgufEntry>& entries() const { return entries_; }
  bool Has(const std::string& name) const { return entries_.contains(name); }

  // F32, F16 and BF16 as stored (a view where aligned), quantised types as F32. Errors: kNotFound;
  // kUnsupported naming the tensor and its type.
  Tensor Get(const std::string& name) const;

 private:
  explicit GgufFile(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {}
  void Parse();

  std::shared_ptr<const MappedFile> file_;
  int64_t version_ = 0;
  nlohmann::json metadata_;
  std::map<std::string, GgufEntry> entries_;
};

}  // namespace fireq
