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

// The tensors outside the blocks, F32 on the host.
struct OuterTensors {
  Matrix<float> embedding;        // [V, D]
  std::vector<float> final_norm;  // [D]
  Matrix<float> lm_head;          // [V, D]; no rows if tied
};

class ModelRotation {
 public:
  // Keeps references to both.
  ModelRotation(const ModelConfig& config, const Recipe& recipe);

  // The configuration of the stored model: a rotated one has its lm_head untied, since the final
  // norm's weights are folded into it.
  ModelConfig StoredConfig() const;

  OuterTensors LoadOuter(const ModelSource& source, ThreadPool& pool) const;
  // lm_head alone, as LoadOuter has it.
  Matrix<float> LoadHead(const ModelSource& source, ThreadPool& pool) const;

  // V's heads, then norms and the residual stream, as far as the recipe has them.
  void Fold(Block<float>& block, ThreadPool& pool) const;

 private:
  const ModelConfig& config_;
  std::optional<Rotation> residual_;  // of size D
  std::optional<Rotation> v_;         // of size Dh
};

}  // namespace fireq::quant
