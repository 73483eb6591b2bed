// A rival's weights, for measurement: QServe's progressive quantisation (arXiv 2405.04532).
//
// Per row symmetric INT8 within +-119, then per group of 128 along K asymmetric INT4 of those
// integers with an integer scale and zero point: w_hat = (q - z) s1 s0. Our stored form has no
// scale a row, so the values are kept as BF16 weights, which rounds s0 times an integer below 2^8
// by up to 2^-9 of itself.
#pragma once

#include "fireq/base/thread_pool.h"
#include "fireq/tensor/matrix.h"

namespace fireq::quant {

// w_hat for w [N, K]. With `moments` (X^T X within groups [K, 128], InputFit::WithinGroups) each
// group's range is clipped by the factor 1 - 0.01 i, i = 0..80, whose error in the layer's output,
// d^T (X^T X) d for the group's d = w_hat - w, is least; the first of equals.
Matrix<float> RoundProgressively(const Matrix<float>& w, const Matrix<float>* moments,
                                 ThreadPool& pool);

}  // namespace fireq::quant
