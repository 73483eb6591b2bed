// What a linear should be if its input is the quantised model's: the weights that come closest to
// the float model's output and residual stream, so that a layer makes up for what the rounding of
// the layers before it did.
//
// With X what the linear reads in the quantised model, X' in the float one, R and R' the residual
// streams that the output is added to (o and down only), it minimises
//   |X V^T - (X' W^T + R' - R)|^2 + damping |V - W|^2
// over V, and V is then quantised instead of W. The first term alone is GPTAQ's (arXiv 2504.02692).
#pragma once

#include <string>

#include "fireq/quant/calibrate.h"

namespace fireq::quant {

struct Correction {
  // H = X^T X damped. V = W + W input^T + output^T; without rows where there is nothing to add.
  Matrix<float> input;   // [K, K] H^-1 X^T (X' - X)
  Matrix<float> output;  // [K, N] H^-1 X^T ((X' - X) W^T + R' - R)
};

// Nothing to add unless `stats` is of a quantised model that is followed. Errors: SolvePositive's.
Correction StudyCorrection(const InputStats& stats, double damping, const std::string& name);

// V for w [N, K].
Matrix<float> Corrected(const Matrix<float>& w, const Correction& correction, ThreadPool& pool);

}  // namespace fireq::quant
