// A rival's weights, for measurement: QServe's progressive quantisation (arXiv 2405.04532).
//
// Per row symmetric INT8 within +-119, then per group of 128 along K asymmetric INT4 of those
// integers with an integer scale and zero point: w_hat = (q - z) s1 s0. Our stored form has no
// scale a row, so the values are kept as BF16 weights (of s0 times an integer below 2^8: exact but
// for the rounding of s0).
#pragma once

#include <span>

#include "fireq/base/thread_pool.h"
#include "fireq/tensor/matrix.h"

namespace fireq::quant {

// w_hat for w [N, K]. With `search` each group's range is clipped by the factor 1 - 0.025 i, i =
// 0..16, whose error weighted by h [K] is least; the first of equals.
Matrix<float> RoundProgressively(const Matrix<float>& w, std::span<const float> h, bool search,
                                 ThreadPool& pool);

}  // namespace fireq::quant
