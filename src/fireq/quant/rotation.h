// An orthogonal matrix of any size whose product costs O(n log n): random signs, then a
// Walsh-Hadamard transform over the power-of-two part of n, then a small random orthogonal matrix
// over the odd part (576 = 9 x 64).
#pragma once

#include <cstdint>
#include <vector>

#include "fireq/base/thread_pool.h"
#include "fireq/tensor/matrix.h"

namespace fireq::quant {

class Rotation {
 public:
  // The same matrix for the same (n, seed) on every machine. n >= 1; the odd part of n must not
  // exceed 4096 (kUnsupported).
  Rotation(int64_t n, uint64_t seed);

  int64_t size() const { return n_; }

  // x <- x R for a row vector x [n].
  template <class T>
  void ApplyToRow(T* x) const;

  // W <- W R, columns [begin, begin + n) of every row: W's input is rotated.
  template <class T>
  void RotateInput(Matrix<T>& weight, int64_t begin, ThreadPool& pool) const;

  // W <- R^T W, rows [begin, begin + n): W's output is rotated.
  template <class T>
  void RotateOutput(Matrix<T>& weight, int64_t begin, ThreadPool& pool) const;

 private:
  int64_t n_, odd_, power_;
  std::vector<double> signs_;  // [n] of +-1
  std::vector<double> mix_;    // [odd, odd] orthogonal
};

}  // namespace fireq::quant
