#include "fireq/io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/io/file_descriptor.h"
#include "fireq/io/ggml_types.h"
#include "fireq/io/json.h"

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in the file");

namespace fireq {
namespace {

using Json = nlohmann::json;

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr int64_t kMaxNameBytes = 65535;
constexpr uint32_t kMaxRank = 4;
// Bytes that a key (length, one character, type, value) and a tensor (length, rank, one dimension,
// type, offset) take at least: what a count of them cannot exceed.
constexpr int64_t kMinKeyBytes = 8 + 4 + 1;
constexpr int64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

// Fewest bytes that a value of `type` takes.
int64_t MinBytes(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kArray:
      return 12;
    default:
      return 8;
  }
}

// Reads forward through the mapped file; everything it returns was inside.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file) {}

  int64_t position() const { return position_; }
  int64_t left() const { return file_.size() - position_; }

  std::span<const uint8_t> Take(uint64_t count, std::string_view what) {
    FIREQ_CHECK(count <= static_cast<uint64_t>(left()), kCorrupt, file_.path().string(), ": ", what,
                ": ", count, " bytes at ", position_, " are beyond the file's ", file_.size());
    const auto bytes = file_.Bytes(position_, static_cast<int64_t>(count), what);
    position_ += static_cast<int64_t>(count);
    return bytes;
  }

  template <class T>
  T Number(std::string_view what) {
    T value;
    std::memcpy(&value, Take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string String(std::string_view what) {
    const uint64_t length = Number<uint64_t>(what);
    const auto bytes = Take(length, what);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  // A count of things of at least `min_bytes` each, which therefore cannot exceed what is left.
  int64_t Count(std::string_view what, int64_t min_bytes) {
    const uint64_t count = Number<uint64_t>(what);
    FIREQ_CHECK(count <= static_cast<uint64_t>(left() / min_bytes), kCorrupt, file_.path().string(),
                ": ", what, ": a count of ", count, " cannot be, only ", left(),
                " bytes of the file are left");
    return static_cast<int64_t>(count);
  }

  [[noreturn]] void Fail(ErrorCode code, const std::string& message) const {
    Throw(code, StrCat(file_.path().string(), ": ", message));
  }

 private:
  const MappedFile& file_;
  int64_t position_ = 0;
};

Json ReadValue(Cursor& in, uint32_t type, const std::string& key, int depth);

Json ReadArray(Cursor& in, const std::string& key, int depth) {
  constexpr int kMaxDepth = 4;
  if (depth >= kMaxDepth) in.Fail(ErrorCode::kCorrupt, key + ": arrays nested too deep");
  const uint32_t type = in.Number<uint32_t>(key);
  if (type > kFloat64) {
    in.Fail(ErrorCode::kCorrupt, StrCat(key, ": unknown array element type ", type));
  }
  const int64_t count = in.Count(key, MinBytes(type));
  Json array = Json::array();
  array.get_ref<Json::array_t&>().reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) array.push_back(ReadValue(in, type, key, depth + 1));
  return array;
}

Json ReadValue(Cursor& in, uint32_t type, const std::string& key, int depth) {
  switch (type) {
    case kUint8:
      return in.Number<uint8_t>(key);
    case kInt8:
      return in.Number<int8_t>(key);
    case kUint16:
      return in.Number<uint16_t>(key);
    case kInt16:
      return in.Number<int16_t>(key);
    case kUint32:
      return in.Number<uint32_t>(key);
    case kInt32:
      return in.Number<int32_t>(key);
    case kFloat32:
      return in.Number<float>(key);
    case kBool: {
      const uint8_t value = in.Number<uint8_t>(key);
      if (value > 1) in.Fail(ErrorCode::kCorrupt, StrCat(key, ": a bool of value ", int{value}));
      return value == 1;
    }
    case kString:
      return in.String(key);
    case kArray:
      return ReadArray(in, key, depth);
    case kUint64:
      return in.Number<uint64_t>(key);
    case kInt64:
      return in.Number<int64_t>(key);
    case kFloat64:
      return in.Number<double>(key);
    default:
      in.Fail(ErrorCode::kCorrupt, StrCat(key, ": unknown value type ", type));
  }
}

std::string ReadName(Cursor& in, const char* what) {
  std::string name = in.String(what);
  if (name.empty() || static_cast<int64_t>(name.size()) > kMaxNameBytes) {
    in.Fail(ErrorCode::kCorrupt, StrCat(what, " of ", name.size(), " bytes at ", in.position()));
  }
  return name;
}

// Reads one record of the tensor directory; the offset stays relative to the data's begin.
GgufEntry ReadEntry(Cursor& in, const std::string& name) {
  GgufEntry entry;
  const uint32_t rank = in.Number<uint32_t>(name);
  if (rank < 1 || rank > kMaxRank) {
    in.Fail(ErrorCode::kCorrupt, StrCat(name, ": rank ", rank, " is not in 1..", kMaxRank));
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    const uint64_t dim = in.Number<uint64_t>(name);
    entry.shape.insert(entry.shape.begin(), static_cast<int64_t>(dim));
    if (dim == 0 || dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(dim), &elements)) {
      in.Fail(ErrorCode::kCorrupt, StrCat(name, ": dimension ", dim, " is zero or overflows"));
    }
  }
  entry.type = in.Number<uint32_t>(name);
  const GgmlType* type = FindGgmlType(entry.type);
  if (type == nullptr) {
    in.Fail(ErrorCode::kUnsupported, StrCat(name, ": unknown tensor type ", entry.type));
  }
  const int64_t row = entry.shape.back();
  if (row % type->block_elements != 0) {
    in.Fail(ErrorCode::kCorrupt, StrCat(name, ": rows of ", row, " are not whole blocks of ",
                                        type->block_elements, " of type ", type->name));
  }
  if (__builtin_mul_overflow(elements / type->block_elements, type->block_bytes,
                             &entry.size_bytes)) {
    in.Fail(ErrorCode::kCorrupt,
            StrCat(name, ": the size of ", ToString(entry.shape), " ", type->name, " overflows"));
  }
  const uint64_t offset = in.Number<uint64_t>(name);
  if (offset > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    in.Fail(ErrorCode::kCorrupt, StrCat(name, ": offset ", offset, " is beyond the file"));
  }
  entry.offset = static_cast<int64_t>(offset);
  return entry;
}

// general.alignment, 32 if absent.
int64_t AlignmentOf(const Cursor& in, const Json& metadata) {
  constexpr int64_t kDefault = 32;
  constexpr int64_t kMax = 65536;
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefault;
  const int64_t value =
      found->is_number_unsigned()
          ? static_cast<int64_t>(std::min<uint64_t>(found->get<uint64_t>(), kMax + 1))
          : 0;
  if (value < 1 || value > kMax || !std::has_single_bit(static_cast<uint64_t>(value))) {
    in.Fail(ErrorCode::kCorrupt, StrCat("general.alignment: expected a power of two up to ", kMax,
                                        ", got ", DescribeJson(*found)));
  }
  return value;
}

// Makes the offsets count from the file's start and checks that the data lie inside, aligned and
// apart.
void PlaceTensors(const Cursor& in, int64_t file_bytes, int64_t alignment,
                  std::map<std::string, GgufEntry>& entries) {
  const int64_t begin = (in.position() + alignment - 1) / alignment * alignment;
  std::vector<std::pair<GgufEntry*, const std::string*>> order;
  for (auto& [name, entry] : entries) {
    if (entry.offset % alignment != 0) {
      in.Fail(ErrorCode::kCorrupt, StrCat(name, ": offset ", entry.offset,
                                          " is not a multiple of the alignment ", alignment));
    }
    const int64_t room = file_bytes - begin;
    if (entry.offset > room || entry.size_bytes > room - entry.offset) {
      in.Fail(ErrorCode::kCorrupt,
              StrCat(name, ": ", entry.size_bytes, " bytes at offset ", entry.offset,
                     " are beyond the ", std::max<int64_t>(room, 0), " bytes of tensor data"));
    }
    entry.offset += begin;
    order.emplace_back(&entry, &name);
  }
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.first->offset < b.first->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const GgufEntry& before = *order[i - 1].first;
    if (order[i].first->offset < before.offset + before.size_bytes) {
      in.Fail(ErrorCode::kCorrupt, StrCat(*order[i].second, " overlaps ", *order[i - 1].second));
    }
  }
}

}  // namespace

std::shared_ptr<const GgufFile> GgufFile::Open(const std::filesystem::path& path) {
  std::shared_ptr<GgufFile> file(new GgufFile(MappedFile::Open(path)));
  file->Parse();
  return file;
}

bool GgufFile::IsGguf(const std::filesystem::path& path) {
  const auto file = MappedFile::Open(path);
  return file->size() >= 4 && std::memcmp(file->data(), "GGUF", 4) == 0;
}

void GgufFile::Parse() {
  Cursor in(*file_);
  if (in.Number<uint32_t>("magic") != kMagic) {
    in.Fail(ErrorCode::kCorrupt, "not a GGUF file: its first four bytes are not \"GGUF\"");
  }
  const uint32_t version = in.Number<uint32_t>("version");
  if (version != 2 && version != 3) {
    const bool swapped = __builtin_bswap32(version) <= 3 && version != 0;
    in.Fail(ErrorCode::kUnsupported,
            swapped ? std::string("big-endian GGUF is not supported")
                    : StrCat("GGUF version ", version, " is not supported (2 and 3 are)"));
  }
  version_ = version;
  const int64_t num_tensors = in.Count("tensor count", kMinTensorBytes);
  const int64_t num_keys = in.Count("key count", kMinKeyBytes);
  metadata_ = Json::object();
  for (int64_t i = 0; i < num_keys; ++i) {
    const std::string key = ReadName(in, "key");
    const uint32_t type = in.Number<uint32_t>(key);
    if (!metadata_.emplace(key, ReadValue(in, type, key, 0)).second) {
      in.Fail(ErrorCode::kCorrupt, "duplicate key " + key);
    }
  }
  for (int64_t i = 0; i < num_tensors; ++i) {
    const std::string name = ReadName(in, "tensor name");
    if (!entries_.emplace(name, ReadEntry(in, name)).second) {
      in.Fail(ErrorCode::kCorrupt, "duplicate tensor " + name);
    }
  }
  PlaceTensors(in, file_->size(), AlignmentOf(in, metadata_), entries_);
}

Tensor GgufFile::Get(const std::string& name) const {
  const auto found = entries_.find(name);
  FIREQ_CHECK(found != entries_.end(), kNotFound, path().string(), ": there is no tensor ", name);
  const GgufEntry& entry = found->second;
  const GgmlType& type = *FindGgmlType(entry.type);
  FIREQ_CHECK(type.decode != nullptr, kUnsupported, path().string(), ": ", name,
              ": tensors of type ", type.name,
              " are not supported (supported: ", ReadableGgmlTypes(), ")");
  const uint8_t* bytes = file_->data() + entry.offset;
  const bool as_stored = type.name == "F16" || type.name == "BF16" || type.name == "F32";
  if (as_stored && reinterpret_cast<uintptr_t>(bytes) % type.block_bytes == 0) {
    const DType dtype = type.name == "F16"    ? DType::kF16
                        : type.name == "BF16" ? DType::kBF16
                                              : DType::kF32;
    return Tensor(dtype, entry.shape, const_cast<uint8_t*>(bytes),
                  std::const_pointer_cast<MappedFile>(file_));
  }
  Tensor out = Tensor::Empty(DType::kF32, entry.shape);
  type.decode(bytes, out.num_elements() / type.block_elements, out.as<float>());
  return out;
}

}  // namespace fireq
