// A block from a float model, onto a backend, and into tensors that a checkpoint takes.
#pragma once

#include <string>

#include "fireq/base/thread_pool.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/model/weights.h"
#include "fireq/ops/backend.h"
#include "fireq/quant/block.h"
#include "fireq/tensor/tensor.h"

namespace fireq::quant {

// Block `layer` in F32. Throws kCorrupt naming the tensor and the place of a NaN or an infinity.
Block<float> LoadBlock(const ModelSource& source, int64_t layer, ThreadPool& pool);

// The float block ready to run. Its weights may alias `block`, which must outlive the result.
BlockWeights PrepareBlock(Backend& backend, Block<float>& block, int64_t head_dim);

// The same without its linears.
BlockWeights PrepareSmallTensors(Backend& backend, const Block<float>& block, int64_t head_dim);

// A tensor [N, K] of the model in F32. Errors: as LoadBlock's, kShapeMismatch.
Matrix<float> LoadMatrix(const ModelSource& source, const std::string& name, ThreadPool& pool);

Tensor F32Tensor(const std::vector<float>& values, Shape shape);

// Rounded to BF16.
Tensor Bf16Tensor(const Matrix<float>& matrix, ThreadPool& pool);

}  // namespace fireq::quant
