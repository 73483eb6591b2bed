#include "fireq/quant/solver.h"

#include <algorithm>
#include <numeric>

#include "fireq/quant/moments.h"
#include "fireq/quant/solver_rows.h"

namespace fireq::quant {

SolverPlan MakeSolverPlan(const Matrix<float>& damped, const std::string& name) {
  const int64_t k = damped.rows;
  SolverPlan plan;
  plan.order.resize(static_cast<size_t>(k));
  std::iota(plan.order.begin(), plan.order.end(), 0);
  std::stable_sort(plan.order.begin(), plan.order.end(),
                   [&](int64_t a, int64_t b) { return damped.at(a, a) > damped.at(b, b); });
  plan.hessian = Matrix<float>(k, k);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j)
      plan.hessian.at(i, j) =
          damped.at(plan.order[static_cast<size_t>(i)], plan.order[static_cast<size_t>(j)]);
  plan.feedback = FeedbackWeights(plan.hessian, name);
  return plan;
}

void SolveCodes(const Matrix<float>& w, const SolverPlan& plan, ErrorProducts products,
                int64_t sweeps, ThreadPool& pool, WeightI4& out) {
  FIREQ_CHECK(out.n == w.rows && out.k == w.cols && plan.hessian.rows == w.cols, kShapeMismatch,
              "codes of [", w.rows, ", ", w.cols, "] with a Hessian of ", plan.hessian.rows);
  pool.ParallelFor(CeilDiv(w.rows, kSolverRows), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block)
      SolveRows(w, plan, products, sweeps, block * kSolverRows, out);
  });
}

}  // namespace fireq::quant
