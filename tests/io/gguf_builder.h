// Builds GGUF bytes for tests, right or wrong as told.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fireq {

template <class T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

inline std::string GgufString(std::string_view text) {
  return Raw<uint64_t>(text.size()) + std::string(text);
}

// A whole file from its parts; counts follow the parts unless set.
struct GgufBuilder {
  std::string magic = "GGUF";
  uint32_t version = 3;
  int64_t tensor_count = -1;
  int64_t key_count = -1;
  std::vector<std::string> keys;     // encoded
  std::vector<std::string> tensors;  // encoded
  std::string data;
  size_t alignment = 32;

  GgufBuilder& Key(std::string_view name, uint32_t type, std::string_view value) {
    keys.push_back(GgufString(name) + Raw<uint32_t>(type) + std::string(value));
    return *this;
  }
  GgufBuilder& U32(std::string_view name, uint32_t value) { return Key(name, 4, Raw(value)); }
  GgufBuilder& F32(std::string_view name, float value) { return Key(name, 6, Raw(value)); }
  GgufBuilder& Bool(std::string_view name, bool value) { return Key(name, 7, Raw(value)); }
  GgufBuilder& String(std::string_view name, std::string_view value) {
    return Key(name, 8, GgufString(value));
  }
  // `dims` fastest first, as the file has them.
  GgufBuilder& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      uint64_t offset) {
    std::string record = GgufString(name) + Raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) record += Raw(dim);
    tensors.push_back(record + Raw(type) + Raw(offset));
    return *this;
  }
  // A tensor whose bytes are appended to the data, aligned.
  GgufBuilder& Add(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                   std::string_view bytes) {
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    Tensor(name, dims, type, data.size());
    data += bytes;
    return *this;
  }

  std::string Build() const {
    std::string out = magic + Raw(version);
    out += Raw<uint64_t>(tensor_count < 0 ? tensors.size() : static_cast<uint64_t>(tensor_count));
    out += Raw<uint64_t>(key_count < 0 ? keys.size() : static_cast<uint64_t>(key_count));
    for (const std::string& key : keys) out += key;
    for (const std::string& tensor : tensors) out += tensor;
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }
};

}  // namespace fireq
