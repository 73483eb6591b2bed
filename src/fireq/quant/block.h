// One transformer block as plain matrices: what folds rewrite and the solvers quantise.
//
// T is float in the pipeline and double in the property tests of the folds.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "fireq/tensor/matrix.h"

namespace fireq::quant {

template <class T>
struct FloatLinear {
  std::string name;     // "model.layers.0.self_attn.q_proj"
  Matrix<T> weight;     // [N, K]
  std::vector<T> bias;  // [N] or empty
};

template <class T>
struct Block {
  std::vector<T> attn_norm, mlp_norm;  // [D]
  std::vector<T> q_norm, k_norm;       // [Dh] or empty
  std::vector<T> crs_q, crs_k;         // [Hk, Dh] or empty
  std::vector<T> key_shift;            // [Hk, Dh] or empty
  FloatLinear<T> q, k, v;              // [H Dh, D], [Hk Dh, D] twice
  FloatLinear<T> o;                    // [D, H Dh]
  FloatLinear<T> gate, up;             // [F, D]
  FloatLinear<T> down;                 // [D, F]

  std::array<FloatLinear<T>*, 7> linears() { return {&q, &k, &v, &o, &gate, &up, &down}; }
};

template <class T>
void ScaleRow(FloatLinear<T>& linear, int64_t row, T factor) {
  for (int64_t k = 0; k < linear.weight.cols; ++k) linear.weight.at(row, k) *= factor;
  if (!linear.bias.empty()) linear.bias[static_cast<size_t>(row)] *= factor;
}

template <class T>
void ScaleColumns(Matrix<T>& weight, const std::vector<T>& factors) {
  for (int64_t n = 0; n < weight.rows; ++n)
    for (int64_t k = 0; k < weight.cols; ++k) weight.at(n, k) *= factors[static_cast<size_t>(k)];
}

}  // namespace fireq::quant
