#include "fireq/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/io/json.h"

namespace fireq {
namespace {

namespace fs = std::filesystem;

struct FileDType {
  std::string_view name;
  int64_t size_bytes;
  std::optional<DType> dtype;  // nothing: known to the format, of no use to FireQ
};

constexpr FileDType kFileDTypes[] = {
    {"F32", 4, DType::kF32},      {"F16", 2, DType::kF16},   {"BF16", 2, DType::kBF16},
    {"F8_E4M3", 1, DType::kE4M3}, {"U8", 1, DType::kU8},     {"I32", 4, DType::kI32},
    {"I64", 8, DType::kI64},      {"F64", 8, std::nullopt},  {"U64", 8, std::nullopt},
    {"U32", 4, std::nullopt},     {"I16", 2, std::nullopt},  {"U16", 2, std::nullopt},
    {"I8", 1, std::nullopt},      {"BOOL", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
};

const FileDType* FindFileDType(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFileDTypes), std::end(kFileDTypes),
                                   [&](const FileDType& d) { return d.name == name; });
  return found == std::end(kFileDTypes) ? nullptr : found;
}

// shape x dtype in bytes, or nothing if that exceeds int64.
std::optional<int64_t> SizeOf(const Shape& shape, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  // A zero dimension makes the product zero whatever the others are.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) return std::nullopt;
  }
  return bytes;
}

SafetensorsEntry ParseEntry(const JsonObject& json, int64_t data_begin, int64_t data_bytes) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  json.RefuseUnknownKeys({"dtype", "shape", "data_offsets"});
  SafetensorsEntry entry;
  entry.dtype = json.String("dtype");
  const FileDType* dtype = FindFileDType(entry.dtype);
  FIREQ_CHECK(dtype != nullptr, kCorrupt, json.place(), ": unknown dtype ",
              DescribeJson(json.value().at("dtype")));
  FIREQ_CHECK(json.Has("shape") && json.Find("shape")->is_array(), kCorrupt, json.PlaceOf("shape"),
              ": expected an array");
  entry.shape = json.Ints("shape", 0, kMax);
  const std::vector<int64_t> offsets = json.Ints("data_offsets", 0, kMax);
  FIREQ_CHECK(offsets.size() == 2 && offsets[0] <= offsets[1], kCorrupt,
              json.PlaceOf("data_offsets"), ": expected [begin, end] with begin <= end, got ",
              json.Has("data_offsets") ? json.Find("data_offsets")->dump().substr(0, 60) : "none");
  FIREQ_CHECK(offsets[1] <= data_bytes, kCorrupt, json.PlaceOf("data_offsets"), ": end ",
              offsets[1], " is beyond the ", data_bytes, " bytes of tensor data");
  const std::optional<int64_t> size = SizeOf(entry.shape, dtype->size_bytes);
  FIREQ_CHECK(size.has_value(), kCorrupt, json.PlaceOf("shape"), ": the size of ",
              ToString(entry.shape), " ", entry.dtype, " overflows");
  FIREQ_CHECK(*size == offsets[1] - offsets[0], kCorrupt, json.PlaceOf("data_offsets"), ": [",
              offsets[0], ", ", offsets[1], "] are ", offsets[1] - offsets[0], " bytes, but ",
              ToString(entry.shape), " ", entry.dtype, " needs ", *size);
  entry.offset = data_begin + offsets[0];
  entry.size_bytes = *size;
  return entry;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(MappedFile::Open(path)) {
  constexpr int64_t kLengthBytes = 8;
  const std::span<const uint8_t> length_bytes =
      file_->Bytes(0, kLengthBytes, "safetensors header length");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = (length << 8) | length_bytes[static_cast<size_t>(i)];
  FIREQ_CHECK(length <= static_cast<uint64_t>(kMaxSafetensorsHeaderBytes), kCorrupt, path.string(),
              ": the header claims ", length, " bytes, the limit is ", kMaxSafetensorsHeaderBytes);
  const std::span<const uint8_t> header =
      file_->Bytes(kLengthBytes, static_cast<int64_t>(length), "safetensors header");
  ParseHeader({reinterpret_cast<const char*>(header.data()), header.size()},
              kLengthBytes + static_cast<int64_t>(length));
  CheckTiling(kLengthBytes + static_cast<int64_t>(length));
}

void SafetensorsFile::ParseHeader(std::string_view text, int64_t data_begin) {
  const std::string name = path().string();
  const nlohmann::json json = ParseJson(text, name, kMaxSafetensorsHeaderBytes);
  const JsonObject header(json, name);
  for (const auto& [key, value] : json.items()) {
    const JsonObject object(value, header.PlaceOf(key));
    if (key != "__metadata__") {
      entries_[key] = ParseEntry(object, data_begin, file_->size() - data_begin);
      continue;
    }
    for (const auto& [metadata_key, unused] : value.items()) {
      metadata_[metadata_key] = object.String(metadata_key);
    }
  }
}

void SafetensorsFile::CheckTiling(int64_t data_begin) const {
  std::vector<std::pair<const SafetensorsEntry*, const std::string*>> order;
  for (const auto& [name, entry] : entries_) order.emplace_back(&entry, &name);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->offset, a.first->size_bytes) <
           std::pair(b.first->offset, b.first->size_bytes);
  });
  int64_t end = data_begin;
  const std::string* previous = nullptr;
  for (const auto& [entry, name] : order) {
    FIREQ_CHECK(entry->offset >= end, kCorrupt, path().string(), ": ", *name, " at byte ",
                entry->offset - data_begin, " overlaps ", *previous, ", which ends at ",
                end - data_begin);
    FIREQ_CHECK(entry->offset == end, kCorrupt, path().string(), ": bytes ", end - data_begin,
                " to ", entry->offset - data_begin, " before ", *name, " belong to no tensor");
    end = entry->offset + entry->size_bytes;
    previous = name;
  }
  FIREQ_CHECK(end == file_->size(), kCorrupt, path().string(), ": the last ", file_->size() - end,
              " bytes belong to no tensor");
}

Tensor SafetensorsFile::Get(const std::string& name) const {
  const auto found = entries_.find(name);
  FIREQ_CHECK(found != entries_.end(), kNotFound, path().string(), ": there is no tensor ", name);
  const SafetensorsEntry& entry = found->second;
  const FileDType* dtype = FindFileDType(entry.dtype);
  FIREQ_CHECK(dtype->dtype.has_value(), kUnsupported, path().string(), ": ", name,
              ": tensors of dtype ", entry.dtype, " are not supported");
  const uint8_t* bytes = file_->data() + entry.offset;
  if (reinterpret_cast<uintptr_t>(bytes) % static_cast<uintptr_t>(dtype->size_bytes) != 0) {
    Tensor copy = Tensor::Empty(*dtype->dtype, entry.shape);
    if (entry.size_bytes > 0)
      std::memcpy(copy.data(), bytes, static_cast<size_t>(entry.size_bytes));
    return copy;
  }
  return Tensor(*dtype->dtype, entry.shape, const_cast<uint8_t*>(bytes),
                std::const_pointer_cast<MappedFile>(file_));
}

SafetensorsDirectory::SafetensorsDirectory(const fs::path& directory) : directory_(directory) {
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (fs::exists(single)) {
    files_.emplace_back(single);
    for (const auto& [name, entry] : files_[0].entries()) file_of_[name] = 0;
    return;
  }
  FIREQ_CHECK(fs::exists(index), kNotFound, directory.string(),
              ": has neither model.safetensors nor model.safetensors.index.json",
              fs::exists(directory / "pytorch_model.bin") ||
                      fs::exists(directory / "pytorch_model.bin.index.json")
                  ? " (PyTorch .bin files are not supported: convert them to safetensors)"
                  : "");
  OpenIndex(index);
}

void SafetensorsDirectory::OpenIndex(const fs::path& index) {
  const nlohmann::json json = ReadJsonFile(index, kMaxSafetensorsHeaderBytes);
  const JsonObject map = JsonObject(json, index.string()).Object("weight_map");
  std::map<std::string, size_t> shards;  // file name -> position in files_
  std::string missing;
  for (const auto& [name, unused] : map.value().items()) {
    const std::string shard = map.String(name);
    FIREQ_CHECK(
        !shard.empty() && fs::path(shard).filename() == shard && shard != "." && shard != "..",
        kCorrupt, map.PlaceOf(name), ": ", DescribeJson(shard),
        " is not the name of a file in this directory");
    if (!shards.emplace(shard, shards.size()).second) continue;
    if (!fs::exists(directory_ / shard)) missing += (missing.empty() ? "" : ", ") + shard;
  }
  FIREQ_CHECK(missing.empty(), kNotFound, index.string(), ": missing shards: ", missing);
  std::vector<fs::path> paths(shards.size());
  for (const auto& [shard, position] : shards) paths[position] = directory_ / shard;
  for (const fs::path& path : paths) files_.emplace_back(path);
  for (const auto& [name, unused] : map.value().items()) {
    const size_t position = shards.at(map.String(name));
    FIREQ_CHECK(files_[position].Has(name), kCorrupt, map.PlaceOf(name), ": ",
                files_[position].path().string(), " does not hold this tensor");
    file_of_[name] = position;
  }
}

const SafetensorsFile& SafetensorsDirectory::FileOf(const std::string& name) const {
  const auto found = file_of_.find(name);
  FIREQ_CHECK(found != file_of_.end(), kNotFound, directory_.string(), ": there is no tensor ",
              name);
  return files_[found->second];
}

Tensor SafetensorsDirectory::Get(const std::string& name) const { return FileOf(name).Get(name); }

const SafetensorsEntry& SafetensorsDirectory::Entry(const std::string& name) const {
  return FileOf(name).entries().at(name);
}

std::vector<std::string> SafetensorsDirectory::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, unused] : file_of_) names.push_back(name);
  return names;
}

const fs::path& SafetensorsDirectory::PathOf(const std::string& name) const {
  return FileOf(name).path();
}

}  // namespace fireq
