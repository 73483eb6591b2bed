// What a linear should be if its input is the quantised model's: the weights that come closest to
// the float model's output and residual stream, so that a layer makes up for what the rounding of
// the layers before it did.
//
// With X what the linear reads in the quantised model, X' in the float one, R and R' the residual
// streams that the output is added to (o and down only), it minimises
//   |X V^T - (X' W^T + R' - R)|^2 + damping |V - W|^2
// over V, and V is then quantised instead of W. The first term alone is GPTAQ's (arXiv 2504.02692).
// Where there is a residual stream, X' W^T + R' is the float model's stream behind the linear.
#pragma once

#include <string>

#include "fireq/base/thread_pool.h"
#include "fireq/quant/moments.h"

namespace fireq::quant {

// What the linears that share an input read, over all calibration tokens.
struct InputStats {
  InputMoments moments;  // of the quantised model's input if it is followed, else of the float one
  // Where the float model is; empty unless followed. Of X (what the linear reads) in the quantised
  // model, for the linears behind norms, and of the stream R that o and down add to:
  Matrix<float> input_gap;      // [K, K] X^T (X_float - X)
  Matrix<float> output_target;  // [K, D] X^T (X_float W^T + R_float - R)
};

struct Correction {
  // H = X^T X damped. V = W + W input^T, or output^T; neither has rows where V = W.
  Matrix<float> input;   // [K, K] H^-1 X^T (X' - X)
  Matrix<float> output;  // [K, N] H^-1 (X^T (X' W^T + R' - R) + damping W^T)
};

// V = W unless `stats` is of a quantised model that is followed. `w` is W of the only linear behind
// the input where that feeds the residual stream. Errors: SolvePositive's, naming `name`.
Correction StudyCorrection(const InputStats& stats, double damping, const Matrix<float>& w,
                           const std::string& name, ThreadPool& pool);

// V for w [N, K].
Matrix<float> Corrected(const Matrix<float>& w, const Correction& correction, ThreadPool& pool);

}  // namespace fireq::quant
