// The work of SolveCodes on a few rows, compiled for every vector width.
#pragma once

#include "fireq/quant/solver.h"

namespace fireq::quant {

inline constexpr int64_t kSolverRows = 32;  // of W that a thread works on side by side

// Rows [first, first + kSolverRows) of w, as far as there are any.
void SolveRows(const Matrix<float>& w, const SolverPlan& plan, ErrorProducts products,
               int64_t sweeps, int64_t first, WeightI4& out);

}  // namespace fireq::quant
