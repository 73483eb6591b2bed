#include "fireq/io/safetensors_writer.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/base/math.h"

namespace fireq {
namespace {

using Json = nlohmann::json;

int64_t BytesOf(const TensorSpec& tensor) {
  return CheckedMul(NumElements(tensor.shape), SizeBytes(tensor.dtype), tensor.name);
}

// In declared order, so that a shard holds whole layers.
std::vector<std::vector<TensorSpec>> SplitIntoShards(const std::vector<TensorSpec>& tensors,
                                                     int64_t max_shard_bytes) {
  std::vector<std::vector<TensorSpec>> shards(1);
  int64_t bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    const int64_t size = BytesOf(tensor);
    if (!shards.back().empty() && size > max_shard_bytes - bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(tensor);
    bytes += size;
  }
  return shards;
}

std::string ShardName(size_t shard, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", shard + 1, count);
  return name;
}

// 8 bytes of length and the JSON, padded with spaces to a multiple of 8 so that the data that
// follow are aligned.
std::string EncodeHeader(const Json& header) {
  std::string text = header.dump();
  text.resize(AlignUp<size_t>(text.size(), 8), ' ');
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  return out + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& directory,
                                     const std::vector<TensorSpec>& tensors,
                                     int64_t max_shard_bytes)
    : directory_(directory) {
  const std::vector<std::vector<TensorSpec>> shards = SplitIntoShards(tensors, max_shard_bytes);
  for (size_t i = 0; i < shards.size(); ++i) {
    StartShard(directory, ShardName(i, shards.size()), shards[i]);
  }
}

void SafetensorsWriter::StartShard(const std::filesystem::path& directory,
                                   const std::string& file_name, std::vector<TensorSpec> tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return SizeBytes(a.dtype) > SizeBytes(b.dtype);
  });
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t end = 0;
  for (const TensorSpec& tensor : tensors) {
    const int64_t begin = end;
    end += BytesOf(tensor);
    header[tensor.name] = {
        {"dtype", Name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    const Slot slot = {file_names_.size(), tensor.dtype, tensor.shape, begin, false};
    FIREQ_CHECK(tensor.name != "__metadata__" && slots_.emplace(tensor.name, slot).second,
                kInvalidArgument, file_name, ": tensor ", tensor.name, " is declared twice");
  }
  const std::string encoded = EncodeHeader(header);
  const int64_t header_bytes = static_cast<int64_t>(encoded.size());
  for (const TensorSpec& tensor : tensors) slots_.at(tensor.name).offset += header_bytes;
  AtomicFile file(directory / file_name);
  file.Reserve(header_bytes + end);
  file.Append(encoded.data(), header_bytes);
  files_.push_back(std::move(file));
  file_names_.push_back(file_name);
  total_bytes_ += end;
}

void SafetensorsWriter::Write(const std::string& name, const Tensor& tensor) {
  const auto found = slots_.find(name);
  FIREQ_CHECK(found != slots_.end(), kInvalidArgument, directory_.string(), ": tensor ", name,
              " was not declared");
  Slot& slot = found->second;
  FIREQ_CHECK(!slot.written, kInvalidArgument, directory_.string(), ": tensor ", name,
              " is written twice");
  FIREQ_CHECK(tensor.space() == MemorySpace::kHost && tensor.dtype() == slot.dtype &&
                  tensor.shape() == slot.shape,
              kShapeMismatch, name, ": declared ", Name(slot.dtype), " ", ToString(slot.shape),
              ", written ", Name(tensor.dtype()), " ", ToString(tensor.shape()));
  files_[slot.shard].WriteAt(slot.offset, tensor.data(), tensor.size_bytes());
  slot.written = true;
}

void SafetensorsWriter::Finish() {
  Json weight_map = Json::object();
  for (const auto& [name, slot] : slots_) {
    FIREQ_CHECK(slot.written, kInvalidArgument, directory_.string(), ": tensor ", name,
                " was declared and never written");
    weight_map[name] = file_names_[slot.shard];
  }
  for (AtomicFile& file : files_) file.Commit();
  if (files_.size() == 1) return;
  const Json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", weight_map}};
  WriteTextFile(directory_ / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace fireq
