#include "fireq/quant/block_io.h"

#include <algorithm>
#include <atomic>

#include "fireq/checkpoint/schema.h"
#include "fireq/formats/bf16.h"

namespace fireq::quant {
namespace {

std::vector<float> LoadVector(const ModelSource& source, const std::string& name) {
  const Tensor tensor = source.LoadFiniteF32(name);
  return {tensor.as<float>(), tensor.as<float>() + tensor.num_elements()};
}

FloatLinear<float> LoadLinear(const ModelSource& source, int64_t layer, fireq::Linear which,
                              ThreadPool& pool) {
  FloatLinear<float> linear;
  linear.name = LinearName(layer, which);
  linear.weight = LoadMatrix(source, linear.name + ".weight", pool);
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

Matrix<float> LoadMatrix(const ModelSource& source, const std::string& name, ThreadPool& pool) {
  constexpr int64_t kRows = 64;  // that stay in a cache on their way
  const Tensor stored = source.Load(name);
  FIREQ_CHECK(stored.rank() == 2, kShapeMismatch, name, ": expected a matrix, got ",
              ToString(stored.shape()));
  Matrix<float> out(stored.dim(0), stored.dim(1));
  std::atomic<bool> finite = true;
  pool.ParallelFor(CeilDiv(out.rows, kRows), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t first = begin * kRows; first < std::min(end * kRows, out.rows); first += kRows) {
      const Tensor rows = stored.Rows(first, std::min(first + kRows, out.rows));
      const Tensor values = ToF32(rows, name);
      if (!IsFinite(rows)) finite = false;
      std::copy_n(values.as<float>(), values.num_elements(), out.row(first));
    }
  });
  if (!finite) CheckFinite(stored, name);
  return out;
}

Tensor F32Tensor(const std::vector<float>& values, Shape shape) {
  return Tensor::FromVector(DType::kF32, std::move(shape), values);
}

Tensor Bf16Tensor(const Matrix<float>& matrix, ThreadPool& pool) {
  Tensor out = Tensor::Empty(DType::kBF16, {matrix.rows, matrix.cols});
  pool.ParallelFor(out.num_elements(), 1 << 16, [&](int64_t begin, int64_t end, int) {
    std::transform(matrix.data.data() + begin, matrix.data.data() + end, out.as<bf16_t>() + begin,
                   FloatToBf16);
  });
  return out;
}

Block<float> LoadBlock(const ModelSource& source, int64_t layer, ThreadPool& pool) {
  const ModelConfig& config = source.config();
  Block<float> block;
  block.attn_norm = LoadVector(source, LayerTensorName(layer, kInputNorm));
  block.mlp_norm = LoadVector(source, LayerTensorName(layer, kPostNorm));
  if (config.qk_norm) {
    block.q_norm = LoadVector(source, LayerTensorName(layer, kQNorm));
    block.k_norm = LoadVector(source, LayerTensorName(layer, kKNorm));
  }
  const auto linears = block.linears();
  // Side by side, since what is left of one thread's work is taking the memory.
  pool.ParallelFor(std::ssize(linears), 1, [&](int64_t begin, int64_t end, int) {
    for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      *linears[i] = LoadLinear(source, layer, kLinears[i], pool);
  });
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
