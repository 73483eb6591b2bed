// A dense row-major matrix on the host: of one linear layer in float (the quantiser) or double
// (property tests).
#pragma once

#include <cstdint>
#include <vector>

#include "fireq/base/math.h"

namespace fireq {

template <class T>
struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<T> data;  // [rows, cols]

  Matrix() = default;
  Matrix(int64_t num_rows, int64_t num_cols)
      : rows(num_rows),
        cols(num_cols),
        data(static_cast<size_t>(CheckedMul(num_rows, num_cols, "matrix"))) {}

  T* row(int64_t i) { return data.data() + i * cols; }
  const T* row(int64_t i) const { return data.data() + i * cols; }
  T& at(int64_t i, int64_t j) { return row(i)[j]; }
  T at(int64_t i, int64_t j) const { return row(i)[j]; }
};

}  // namespace fireq
