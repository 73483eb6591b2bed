// Codes of a weight matrix by error-compensated rounding: what one column's rounding costs the
// layer's output is made up for by the columns after it.
//
// Scales and zero points are given (static groups), columns are visited in order of
// falling diag(X^T X), and a code's value is the product that the kernel multiplies by. Sources:
// GPTQ (arXiv 2210.17323) in the feedback form of QuIP (arXiv 2307.13304).
#pragma once

#include <string>

#include "fireq/base/thread_pool.h"
#include "fireq/quant/recipe.h"
#include "fireq/tensor/matrix.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq::quant {

// What column order, feedback and Hessian a matrix's rows share; made once for q, k, v.
struct SolverPlan {
  std::vector<int64_t> order;  // [K] columns in the order they are rounded
  Matrix<float> hessian;       // [K, K] damped, rows and columns in that order
  Matrix<float> feedback;      // [K, K] FeedbackWeights(hessian)
};

// `damped` is InputMoments::Damped(). Errors: those of FeedbackWeights.
SolverPlan MakeSolverPlan(const Matrix<float>& damped, const std::string& name);

// Fills codes of `out` for w [N, K]; then `sweeps` rounds of coordinate descent, first on the
// scales (to neighbouring E4M3 values), then on the codes, each of which can only lower tr((W_hat -
// W) H (W_hat - W)^T). Rows are independent: any number of threads gives the same codes.
void SolveCodes(const Matrix<float>& w, const SolverPlan& plan, ErrorProducts products,
                int64_t sweeps, ThreadPool& pool, WeightI4& out);

// The code whose value is nearest to `w` (in units of t W) and that value: the product, or the mean
// of both products for kMean.
struct ValuedCode {
  float code;
  float value;
};
ValuedCode NearestProduct(float w, float scale, float zero, ErrorProducts products);

}  // namespace fireq::quant
