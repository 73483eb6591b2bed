#include "fireq/quant/quantize_linear.h"

#include <cmath>

#include "fireq/quant/grid.h"

namespace fireq::quant {

bool NeedsInputMoments(const Recipe& recipe) {
  return recipe.weights_grid != WeightGrid::kNone &&
         (recipe.weights_search || recipe.weights_grid == WeightGrid::kSigned ||
          recipe.weights_solver == WeightSolver::kGptq);
}

InputKnowledge StudyInput(InputFit* fit, const Recipe& recipe, const FloatLinear<float>& first) {
  InputKnowledge out;
  FIREQ_CHECK(fit != nullptr || !NeedsInputMoments(recipe), kInternal, first.name,
              ": the recipe needs calibration");
  if (fit == nullptr) return out;
  out.fit = fit;
  out.importance = ImportanceOf(fit->Diagonal(), recipe.weights_damping);
  if (recipe.weights_solver == WeightSolver::kGptq)
    fit->Factorise(recipe.weights_damping, first.name);
  if (fit->shape().target != FitTarget::kNone)
    fit->Correct(recipe.follow_damping, first.weight, first.name);
  return out;
}

WeightI4 QuantizeLinear(const FloatLinear<float>& linear, const InputKnowledge& input,
                        const Recipe& recipe, ThreadPool& pool) {
  const Matrix<float> w = input.fit ? input.fit->Corrected(linear.weight) : linear.weight;
  const float t = recipe.weights_t ? ChooseTensorScale(w, pool) : 1.0f;
  WeightI4 out = MakeWeightI4(w.rows, w.cols, t);
  const std::vector<float> ones(input.importance.empty() ? static_cast<size_t>(w.cols) : size_t{0},
                                1.0f);
  const GridSpec spec{recipe.weights_grid, recipe.weights_search, recipe.weights_products};
  SearchScales(w, input.importance.empty() ? ones : input.importance, spec, pool, out);
  if (recipe.weights_solver == WeightSolver::kGptq) {
    FIREQ_CHECK(input.fit != nullptr, kInternal, linear.name, ": error-compensated without a fit");
    input.fit->SolveCodes(w, recipe.weights_products, recipe.weights_sweeps, out);
  } else {
    RoundToNearest(w, pool, out);
  }
  return out;
}

LinearErrors MeasureErrors(const FloatLinear<float>& linear, const WeightI4& stored,
                           std::span<const float> importance, ThreadPool& pool) {
  const Matrix<float>& w = linear.weight;
  struct Sums {
    double weight[2] = {}, output[2] = {}, weight_norm = 0.0, output_norm = 0.0;
  };
  std::vector<Sums> rows(static_cast<size_t>(w.rows));
  pool.ParallelFor(w.rows, 16, [&](int64_t begin, int64_t end, int) {
    std::vector<float> w_hat(static_cast<size_t>(w.cols));
    for (int64_t n = begin; n < end; ++n) {
      Sums& sums = rows[static_cast<size_t>(n)];
      for (const int products : {0, 1}) {
        DequantizeRow(stored, n, products == 0 ? Products::kTable : Products::kExact, w_hat.data());
        for (int64_t k = 0; k < w.cols; ++k) {
          const double h = importance.empty() ? 1.0 : importance[static_cast<size_t>(k)];
          const double weight = w.at(n, k), error = w_hat[static_cast<size_t>(k)] - weight;
          sums.weight[products] += error * error;
          sums.output[products] += h * error * error;
          if (products == 1) continue;
          sums.weight_norm += weight * weight;
          sums.output_norm += h * weight * weight;
        }
      }
    }
  });
  Sums total;
  for (const Sums& sums : rows) {
    for (const int products : {0, 1}) {
      total.weight[products] += sums.weight[products];
      total.output[products] += sums.output[products];
    }
    total.weight_norm += sums.weight_norm;
    total.output_norm += sums.output_norm;
  }
  const auto ratio = [](double error, double norm) {
    return norm > 0.0 ? std::sqrt(error / norm) : 0.0;
  };
  return {ratio(total.weight[0], total.weight_norm), ratio(total.weight[1], total.weight_norm),
          ratio(total.output[0], total.output_norm), ratio(total.output[1], total.output_norm)};
}

}  // namespace fireq::quant
