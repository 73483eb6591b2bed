// Second moments of a linear layer's input: X^T X over all calibration tokens, or its diagonal.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "fireq/base/thread_pool.h"
#include "fireq/tensor/matrix.h"

namespace fireq::quant {

class InputMoments {
 public:
  InputMoments() = default;
  // `full` keeps all of X^T X [K, K], otherwise its diagonal only.
  InputMoments(int64_t k, bool full);

  // Adds `rows` tokens of x [rows, K]; in the same loop, if there is a `cross` [K, M], x^T y to it
  // for y [rows, M]. Throws kCorrupt naming `name` if a sum is not finite.
  void Add(const float* x, int64_t rows, const std::string& name, ThreadPool& pool,
           const float* y = nullptr, Matrix<float>* cross = nullptr);

  int64_t k() const { return k_; }
  bool full() const { return full_; }
  int64_t tokens() const { return tokens_; }
  const std::vector<double>& diagonal() const { return diagonal_; }

  // diag(X^T X) + damping x its mean: positive everywhere (1 everywhere if X was all zero).
  std::vector<float> Importance(double damping) const;

  // InputFit::WithinGroups; needs full().
  Matrix<float> WithinGroups() const;

  // X^T X with the same on its diagonal; needs full(). All of it in units of Unit().
  Matrix<float> Damped(double damping) const;
  // Mean of diag(X^T X) with its damping; that damping, which is positive.
  double Unit(double damping) const;
  double DampingTerm(double damping) const;

 private:
  int64_t k_ = 0;
  bool full_ = false;
  int64_t tokens_ = 0;
  std::vector<double> diagonal_;  // [K]
  Matrix<float> products_;        // [K, K], lower triangle of tiles, if full
};

// h^-1 b, in b's place [K, M]; h [K, K] positive definite, else kInvalidArgument naming `name`.
void SolvePositive(Matrix<float> h, Matrix<float>& b, const std::string& name, ThreadPool& pool);

// Feedback weights of error-compensated rounding for the column order of `h` (positive definite,
// [K, K]): h = (A + I) D (A + I)^T with A strictly upper triangular. Column k is rounded at
// w_k + sum_{j<k} (w_j - w_hat_j) A_jk. Throws kInvalidArgument naming `name` if h is not
// positive definite. Source: QuIP (arXiv 2307.13304), where this form of GPTQ is derived.
Matrix<float> FeedbackWeights(const Matrix<float>& h, const std::string& name);

}  // namespace fireq::quant
