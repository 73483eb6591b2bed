#include "fireq/quant/model_rotation.h"

#include <algorithm>

#include "fireq/checkpoint/schema.h"
#include "fireq/quant/block_io.h"
#include "fireq/quant/fold_rotation.h"

namespace fireq::quant {
namespace {

std::vector<float> LoadFinalNorm(const ModelSource& source) {
  const Tensor norm = source.LoadFiniteF32(kFinalNormName);
  return {norm.as<float>(), norm.as<float>() + norm.num_elements()};
}

}  // namespace

ModelRotation::ModelRotation(const ModelConfig& config, const Recipe& recipe) : config_(config) {
  const uint64_t seed = static_cast<uint64_t>(recipe.seed);
  if (recipe.rotate_residual) residual_.emplace(config.hidden, 2 * seed);
  if (recipe.rotate_v) v_.emplace(config.head_dim, 2 * seed + 1);
}

ModelConfig ModelRotation::StoredConfig() const {
  ModelConfig out = config_;
  if (residual_) out.tied_embeddings = false;
  return out;
}

OuterTensors ModelRotation::LoadOuter(const ModelSource& source, ThreadPool& pool) const {
  OuterTensors out;
  out.embedding = LoadMatrix(source, kEmbeddingName, pool);
  out.final_norm = LoadFinalNorm(source);
  if (!residual_) return out;
  std::fill(out.final_norm.begin(), out.final_norm.end(), 1.0f);
  residual_->RotateInput(out.embedding, 0, pool);
  return out;
}

Matrix<float> ModelRotation::LoadHead(const ModelSource& source, ThreadPool& pool) const {
  Matrix<float> out =
      LoadMatrix(source, config_.tied_embeddings ? kEmbeddingName : kLmHeadName, pool);
  if (!residual_) return out;
  ScaleColumns(out, LoadFinalNorm(source));
  residual_->RotateInput(out, 0, pool);
  return out;
}

void ModelRotation::Fold(Block<float>& block, ThreadPool& pool) const {
  if (v_) RotateV(block, config_, *v_, pool);
  if (!residual_) return;
  FoldNorms(block);
  RotateResidual(block, *residual_, pool);
}

}  // namespace fireq::quant
