// One linear layer from float weights to the stored form, as the recipe says, with its errors.
#pragma once

#include <span>

#include "fireq/base/thread_pool.h"
#include "fireq/ops/input_fit.h"
#include "fireq/quant/block.h"
#include "fireq/quant/recipe.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq::quant {

// What the linears that share an input (q, k, v; gate, up) also share.
struct InputKnowledge {
  std::vector<float> importance;  // [K] diag(X^T X) + damping; empty without calibration
  InputFit* fit = nullptr;        // corrects, and for WeightSolver::kGptq finds codes; or null
};

// `first` is the first linear behind the input. `fit` has seen all tokens and is kept; it may be
// null for recipes that need no calibration (NeedsInputMoments).
InputKnowledge StudyInput(InputFit* fit, const Recipe& recipe, const FloatLinear<float>& first);

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
