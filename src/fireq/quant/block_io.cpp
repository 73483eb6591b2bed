#include "fireq/quant/block_io.h"

#include <algorithm>
#include <cstring>

#include "fireq/checkpoint/schema.h"
#include "fireq/formats/bf16.h"

namespace fireq::quant {
namespace {

std::vector<float> LoadVector(const ModelSource& source, const std::string& name) {
  const Tensor tensor = source.LoadFiniteF32(name);
  return {tensor.as<float>(), tensor.as<float>() + tensor.num_elements()};
}

FloatLinear<float> LoadLinear(const ModelSource& source, int64_t layer, fireq::Linear which) {
  FloatLinear<float> linear;
  linear.name = LinearName(layer, which);
  linear.weight = ToMatrix(source.LoadFiniteF32(linear.name + ".weight"));
  if (HasBias(source.config(), which)) linear.bias = LoadVector(source, linear.name + ".bias");
  return linear;
}

Tensor Upload(Backend& backend, const std::vector<float>& values, Shape shape) {
  return values.empty() ? Tensor() : backend.Upload(F32Tensor(values, std::move(shape)));
}

std::shared_ptr<const PreparedLinear> Prepare(Backend& backend,
                                              std::initializer_list<FloatLinear<float>*> linears) {
  LinearSpec spec;
  for (FloatLinear<float>* linear : linears) {
    Matrix<float>& weight = linear->weight;
    LinearPart part;
    part.name = linear->name;
    part.weight =
        Tensor(DType::kF32, {weight.rows, weight.cols}, weight.data.data(), /*owner=*/nullptr);
    if (!linear->bias.empty()) part.bias = F32Tensor(linear->bias, {weight.rows});
    spec.parts.push_back(std::move(part));
  }
  spec.gate_up = linears.size() == 2;
  return backend.Prepare(std::move(spec));
}

}  // namespace

Matrix<float> ToMatrix(const Tensor& tensor) {
  FIREQ_CHECK(tensor.rank() == 2 && tensor.dtype() == DType::kF32, kShapeMismatch,
              "expected an F32 matrix, got ", Name(tensor.dtype()), " ", ToString(tensor.shape()));
  Matrix<float> out(tensor.dim(0), tensor.dim(1));
  std::memcpy(out.data.data(), tensor.data(), static_cast<size_t>(tensor.size_bytes()));
  return out;
}

Tensor F32Tensor(const std::vector<float>& values, Shape shape) {
  return Tensor::FromVector(DType::kF32, std::move(shape), values);
}

Tensor Bf16Tensor(const Matrix<float>& matrix) {
  Tensor out = Tensor::Empty(DType::kBF16, {matrix.rows, matrix.cols});
  std::transform(matrix.data.begin(), matrix.data.end(), out.as<bf16_t>(), FloatToBf16);
  return out;
}

Block<float> LoadBlock(const ModelSource& source, int64_t layer) {
  const ModelConfig& config = source.config();
  Block<float> block;
  block.attn_norm = LoadVector(source, LayerTensorName(layer, kInputNorm));
  block.mlp_norm = LoadVector(source, LayerTensorName(layer, kPostNorm));
  if (config.qk_norm) {
    block.q_norm = LoadVector(source, LayerTensorName(layer, kQNorm));
    block.k_norm = LoadVector(source, LayerTensorName(layer, kKNorm));
  }
  const auto linears = block.linears();
  for (size_t i = 0; i < linears.size(); ++i) *linears[i] = LoadLinear(source, layer, kLinears[i]);
  return block;
}

BlockWeights PrepareSmallTensors(Backend& backend, const Block<float>& block, int64_t head_dim) {
  const auto length = [](const std::vector<float>& values) {
    return static_cast<int64_t>(values.size());
  };
  BlockWeights out;
  out.attn_norm = Upload(backend, block.attn_norm, {length(block.attn_norm)});
  out.mlp_norm = Upload(backend, block.mlp_norm, {length(block.mlp_norm)});
  out.q_norm = Upload(backend, block.q_norm, {length(block.q_norm)});
  out.k_norm = Upload(backend, block.k_norm, {length(block.k_norm)});
  out.crs_q = Upload(backend, block.crs_q, {length(block.crs_q) / head_dim, head_dim});
  out.crs_k = Upload(backend, block.crs_k, {length(block.crs_k) / head_dim, head_dim});
  out.key_shift = Upload(backend, block.key_shift, {length(block.key_shift) / head_dim, head_dim});
  return out;
}

BlockWeights PrepareBlock(Backend& backend, Block<float>& block, int64_t head_dim) {
  BlockWeights out = PrepareSmallTensors(backend, block, head_dim);
  out.qkv = Prepare(backend, {&block.q, &block.k, &block.v});
  out.o = Prepare(backend, {&block.o});
  out.gate_up = Prepare(backend, {&block.gate, &block.up});
  out.down = Prepare(backend, {&block.down});
  return out;
}

}  // namespace fireq::quant
