// One linear layer from float weights to the stored form, as the recipe says, with its errors.
#pragma once

#include <optional>
#include <span>

#include "fireq/base/thread_pool.h"
#include "fireq/quant/block.h"
#include "fireq/quant/correction.h"
#include "fireq/quant/recipe.h"
#include "fireq/quant/solver.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq::quant {

// What the linears that share an input (q, k, v; gate, up) also share.
struct InputKnowledge {
  std::vector<float> importance;   // [K] diag(X^T X) + damping, or ones without calibration
  std::optional<SolverPlan> plan;  // for WeightSolver::kGptq
  Correction correction;           // nothing unless the quantised model is followed
};

// `first` is the first linear behind the input. `stats` may be null for recipes that need no
// calibration (NeedsInputMoments).
InputKnowledge StudyInput(const InputStats* stats, const Recipe& recipe,
                          const FloatLinear<float>& first, ThreadPool& pool);

bool NeedsInputMoments(const Recipe& recipe);

struct LinearErrors {
  double weight_table = 0.0;  // |W_hat - W| / |W|, Frobenius
  double weight_exact = 0.0;
  double output_table = 0.0;  // the same weighted by diag(X^T X): what the layer's output sees
  double output_exact = 0.0;
};

// The stored form of the corrected weights.
WeightI4 QuantizeLinear(const FloatLinear<float>& linear, const InputKnowledge& input,
                        const Recipe& recipe, ThreadPool& pool);

LinearErrors MeasureErrors(const FloatLinear<float>& linear, const WeightI4& stored,
                           std::span<const float> importance, ThreadPool& pool);

}  // namespace fireq::quant
