// Which rotations a recipe puts through a whole model, and what they do to each part of it.
#pragma once

#include <optional>

#include "fireq/base/thread_pool.h"
#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/quant/block.h"
#include "fireq/quant/recipe.h"
#include "fireq/quant/rotation.h"

namespace fireq::quant {

// The tensors in front of the blocks and behind them, F32 on the host; lm_head is large enough to
// be loaded by itself.
struct OuterTensors {
  Matrix<float> embedding;        // [V, D]
  std::vector<float> final_norm;  // [D]
};

class ModelRotation {
 public:
  // Keeps references to both.
  ModelRotation(const ModelConfig& config, const Recipe& recipe);

  // The configuration of the stored model: a rotated one has its lm_head untied, since the final
  // norm's weights are folded into it.
  ModelConfig StoredConfig() const;

  OuterTensors LoadOuter(const ModelSource& source, ThreadPool& pool) const;
  // lm_head [V, D] of a stored model that does not tie it.
  Matrix<float> LoadHead(const ModelSource& source, ThreadPool& pool) const;

  // V's heads, then norms and the residual stream, as far as the recipe has them.
  void Fold(Block<float>& block, ThreadPool& pool) const;

 private:
  const ModelConfig& config_;
  std::optional<Rotation> residual_;  // of size D
  std::optional<Rotation> v_;         // of size Dh
};

}  // namespace fireq::quant
