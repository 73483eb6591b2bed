#include "fireq/checkpoint/model_source.h"

#include <algorithm>
#include <bit>

#include "fireq/base/error.h"
#include "fireq/checkpoint/gguf_source.h"
#include "fireq/checkpoint/hugging_face_source.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/io/gguf.h"
#include "fireq/io/json.h"

namespace fireq {
namespace {

namespace fs = std::filesystem;

// Bits of an exponent that is all ones: infinity or NaN.
constexpr uint32_t kF32Exponent = 0x7F800000u;
constexpr uint16_t kF16Exponent = 0x7C00u;
constexpr uint16_t kBf16Exponent = 0x7F80u;

// Index of the first element whose exponent is all ones, or -1. In blocks without a branch inside,
// so that the compiler vectorises the search that almost always finds nothing.
template <class T>
int64_t FirstNonFinite(const T* values, int64_t count, T mask) {
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    bool found = false;
    for (int64_t i = begin; i < end; ++i) found |= (values[i] & mask) == mask;
    if (!found) continue;
    for (int64_t i = begin; i < end; ++i) {
      if ((values[i] & mask) == mask) return i;
    }
  }
  return -1;
}

int64_t FirstNonFinite(const Tensor& tensor) {
  const int64_t count = tensor.num_elements();
  if (tensor.dtype() == DType::kF32)
    return FirstNonFinite(tensor.as<uint32_t>(), count, kF32Exponent);
  return FirstNonFinite(tensor.as<uint16_t>(), count,
                        tensor.dtype() == DType::kF16 ? kF16Exponent : kBf16Exponent);
}

std::string IndexText(const Shape& shape, int64_t flat) {
  std::string text;
  for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) {
    text.insert(0, StrCat(flat % *dim, text.empty() ? "" : ", "));
    flat /= *dim;
  }
  return "[" + text + "]";
}

// Exact, and without a branch: the exponent is rebiased by a multiplication, which also makes
// subnormals normal; infinity and NaN get their exponent back.
void HalvesToFloat(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t half = from[i];
    const float magnitude = std::bit_cast<float>((half & 0x7FFFu) << 13) * 0x1p112f;
    uint32_t bits = std::bit_cast<uint32_t>(magnitude);
    bits |= (half & kF16Exponent) == kF16Exponent ? kF32Exponent : 0u;
    to[i] = std::bit_cast<float>(bits | ((half & 0x8000u) << 16));
  }
}

}  // namespace

ModelKind DetectModelKind(const fs::path& path) {
  FIREQ_CHECK(fs::exists(path), kNotFound, path.string(), ": no such file or directory");
  if (!fs::is_directory(path)) {
    FIREQ_CHECK(GgufFile::IsGguf(path), kUnsupported, path.string(),
                ": not a model: neither a directory nor a GGUF file");
    return ModelKind::kGguf;
  }
  const fs::path config_path = path / "config.json";
  FIREQ_CHECK(fs::exists(config_path), kNotFound, path.string(),
              ": not a model: the directory has no config.json");
  const nlohmann::json json = ReadJsonFile(config_path);
  const JsonObject config(json, config_path.string());
  if (!config.Has("quantization_config")) return ModelKind::kHuggingFace;
  const JsonObject quant = config.Object("quantization_config");
  const std::string method = quant.StringOr("quant_method", "(none named)");
  FIREQ_CHECK(method == kQuantMethod, kUnsupported, quant.PlaceOf("quant_method"),
              ": models quantised by ", DescribeJson(method), " are not supported");
  return ModelKind::kFireqQuantised;
}

std::shared_ptr<const ModelSource> ModelSource::Open(const fs::path& path) {
  switch (DetectModelKind(path)) {
    case ModelKind::kGguf:
      return OpenGgufSource(path);
    case ModelKind::kHuggingFace:
      return OpenHuggingFaceSource(path);
    case ModelKind::kFireqQuantised:
      break;
  }
  Throw(ErrorCode::kUnsupported,
        StrCat(path.string(), ": is a quantised FireQ checkpoint; a float model is needed here"));
}

Tensor ModelSource::LoadF32(const std::string& name) const { return ToF32(Load(name), name); }

Tensor ModelSource::LoadFiniteF32(const std::string& name) const {
  const Tensor stored = Load(name);
  CheckFinite(stored, name);
  return ToF32(stored, name);
}

Tensor ToF32(const Tensor& tensor, const std::string& name) {
  if (tensor.dtype() == DType::kF32) return tensor;
  FIREQ_CHECK(tensor.dtype() == DType::kF16 || tensor.dtype() == DType::kBF16, kUnsupported, name,
              ": dtype ", Name(tensor.dtype()), " is not F32, F16 or BF16");
  Tensor out = Tensor::Empty(DType::kF32, tensor.shape());
  const uint16_t* from = tensor.as<uint16_t>();
  float* to = out.as<float>();
  if (tensor.dtype() == DType::kF16) {
    HalvesToFloat(from, out.num_elements(), to);
  } else {
    for (int64_t i = 0; i < out.num_elements(); ++i) {
      to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
    }
  }
  return out;
}

bool IsFinite(const Tensor& tensor) { return FirstNonFinite(tensor) < 0; }

void CheckFinite(const Tensor& tensor, const std::string& name) {
  const DType dtype = tensor.dtype();
  FIREQ_CHECK(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16, kUnsupported,
              name, ": dtype ", Name(dtype), " is not F32, F16 or BF16");
  const int64_t at = FirstNonFinite(tensor);
  if (at < 0) return;
  Tensor element(dtype, {1}, static_cast<char*>(tensor.data()) + at * SizeBytes(dtype), nullptr);
  const float value = *ToF32(element, name).as<float>();
  Throw(ErrorCode::kCorrupt, StrCat(name, ": ", value, " at ", IndexText(tensor.shape(), at)));
}

}  // namespace fireq
