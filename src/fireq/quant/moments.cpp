#include "fireq/quant/moments.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "fireq/base/error.h"
#include "fireq/quant/blas.h"

// LAPACK's Cholesky factorisation, part of OpenBLAS. Column-major; `uplo` 'U' or 'L'.
extern "C" void spotrs_(const char* uplo, const int* n, const int* columns, const float* a,
                        const int* lda, float* b, const int* ldb, int* info);
extern "C" void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);

namespace fireq::quant {
namespace {

constexpr int64_t kTile = 256;  // of X^T X: the unit of work of a thread

}  // namespace

InputMoments::InputMoments(int64_t k, bool full)
    : k_(k), full_(full), diagonal_(static_cast<size_t>(k), 0.0) {
  if (full) products_ = Matrix<float>(k, k);
}

void InputMoments::Add(const float* x, int64_t rows, const std::string& name, ThreadPool& pool) {
  pool.ParallelFor(k_, 64, [&](int64_t begin, int64_t end, int) {
    std::vector<float> sums(static_cast<size_t>(end - begin), 0.0f);
    for (int64_t t = 0; t < rows; ++t) {
      const float* row = x + t * k_ + begin;
      for (size_t j = 0; j < sums.size(); ++j) sums[j] += row[j] * row[j];
    }
    for (size_t j = 0; j < sums.size(); ++j) diagonal_[static_cast<size_t>(begin) + j] += sums[j];
  });
  for (size_t j = 0; j < diagonal_.size(); ++j)
    FIREQ_CHECK(std::isfinite(diagonal_[j]), kCorrupt, name, ": activations of channel ", j,
                " are not finite in calibration");
  if (full_) AddFull(x, rows, pool);
  tokens_ += rows;
}

void InputMoments::AddFull(const float* x, int64_t rows, ThreadPool& pool) {
  const SingleThreadBlas blas;
  const int64_t tiles = CeilDiv(k_, kTile);
  pool.ParallelFor(tiles * tiles, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i = tile / tiles * kTile, j = tile % tiles * kTile;
      if (j > i) continue;  // symmetric: Damped() mirrors
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans,
                  static_cast<int>(std::min(kTile, k_ - i)),
                  static_cast<int>(std::min(kTile, k_ - j)), static_cast<int>(rows), 1.0f, x + i,
                  static_cast<int>(k_), x + j, static_cast<int>(k_), 1.0f, products_.row(i) + j,
                  static_cast<int>(k_));
    }
  });
}

double InputMoments::DampingTerm(double damping) const {
  double mean = 0.0;
  for (const double d : diagonal_) mean += d / static_cast<double>(k_);
  if (mean == 0.0) return 1.0;
  // A trace of damping keeps dead channels' weights defined.
  return std::max(damping, 1e-6) * mean;
}

double InputMoments::Unit(double damping) const {
  const double term = DampingTerm(damping);
  double mean = 0.0;
  for (const double d : diagonal_) mean += (d + term) / static_cast<double>(k_);
  return mean;
}

std::vector<float> InputMoments::Importance(double damping) const {
  const double term = DampingTerm(damping);
  // Scaled by the mean so that FP32 sums of errors stay in range for any activations.
  const double mean = Unit(damping);
  std::vector<float> out(diagonal_.size());
  for (size_t j = 0; j < out.size(); ++j) out[j] = static_cast<float>((diagonal_[j] + term) / mean);
  return out;
}

Matrix<float> InputMoments::Damped(double damping) const {
  FIREQ_CHECK(full_, kInternal, "only the diagonal of X^T X was kept");
  const double term = DampingTerm(damping);
  const double mean = Unit(damping);
  Matrix<float> out(k_, k_);
  const float scale = static_cast<float>(1.0 / mean);
  for (int64_t i = 0; i < k_; ++i) {
    for (int64_t j = 0; j < i; ++j) out.at(i, j) = out.at(j, i) = products_.at(i, j) * scale;
    out.at(i, i) = static_cast<float>((diagonal_[static_cast<size_t>(i)] + term) / mean);
  }
  return out;
}

void AddProduct(const float* x, const float* y, int64_t rows, ThreadPool& pool,
                Matrix<float>& out) {
  const SingleThreadBlas blas;
  const int64_t down = CeilDiv(out.rows, kTile), across = CeilDiv(out.cols, kTile);
  pool.ParallelFor(down * across, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i = tile / across * kTile, j = tile % across * kTile;
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans,
                  static_cast<int>(std::min(kTile, out.rows - i)),
                  static_cast<int>(std::min(kTile, out.cols - j)), static_cast<int>(rows), 1.0f,
                  x + i, static_cast<int>(out.rows), y + j, static_cast<int>(out.cols), 1.0f,
                  out.row(i) + j, static_cast<int>(out.cols));
    }
  });
}

void AddOutputs(const float* x, const Matrix<float>& w, int64_t rows, ThreadPool& pool, float* y) {
  const SingleThreadBlas blas;
  const int n = static_cast<int>(w.rows), k = static_cast<int>(w.cols);
  pool.ParallelFor(CeilDiv(rows, kTile), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t first = begin * kTile; first < std::min(end * kTile, rows); first += kTile)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans,
                  static_cast<int>(std::min(kTile, rows - first)), n, k, 1.0f, x + first * k, k,
                  w.data.data(), k, 1.0f, y + first * n, n);
  });
}

void SolvePositive(Matrix<float> h, Matrix<float>& b, const std::string& name) {
  const int size = static_cast<int>(h.rows), columns = static_cast<int>(b.cols);
  // LAPACK's matrices lie by columns: b goes there and back transposed.
  Matrix<float> turned(b.cols, b.rows);
  for (int64_t i = 0; i < b.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) turned.at(j, i) = b.at(i, j);
  int info = 0;
  const SingleThreadBlas blas;
  spotrf_("U", &size, h.data.data(), &size, &info);
  FIREQ_CHECK(info == 0, kInternal, name, ": X^T X with damping is not positive definite at ", info,
              " of ", h.rows);
  spotrs_("U", &size, &columns, h.data.data(), &size, turned.data.data(), &size, &info);
  for (int64_t i = 0; i < b.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) b.at(i, j) = turned.at(j, i);
}

Matrix<float> FeedbackWeights(const Matrix<float>& h, const std::string& name) {
  // With J the reversal of indices, J h J = L L^T gives h = (J L J)(J L J)^T, J L J upper
  // triangular; its columns over their diagonal are A + I.
  const int64_t n = h.rows;
  Matrix<float> reversed(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) reversed.at(i, j) = h.at(n - 1 - i, n - 1 - j);
  const int size = static_cast<int>(n);
  int info = 0;
  {
    const SingleThreadBlas blas;
    // Row-major lower is column-major upper: L is left in the lower triangle of our rows.
    spotrf_("U", &size, reversed.data.data(), &size, &info);
  }
  FIREQ_CHECK(info == 0, kInternal, name, ": X^T X with damping is not positive definite at ", info,
              " of ", n);
  Matrix<float> feedback(n, n);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t column = n - 1 - k;
    const float diagonal = reversed.at(column, column);
    for (int64_t j = 0; j < k; ++j) feedback.at(j, k) = reversed.at(n - 1 - j, column) / diagonal;
  }
  return feedback;
}

}  // namespace fireq::quant
