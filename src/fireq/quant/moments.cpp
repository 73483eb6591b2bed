#include "fireq/quant/moments.h"

#include <algorithm>
#include <cmath>

#include "fireq/base/error.h"
#include "fireq/formats/int4.h"
#include "fireq/ops/input_fit.h"
#include "fireq/quant/blas.h"
#include "fireq/quant/product_tile.h"

// LAPACK's Cholesky factorisation, part of OpenBLAS. Column-major; `uplo` 'U' or 'L'.
extern "C" void spotrs_(const char* uplo, const int* n, const int* columns, const float* a,
                        const int* lda, float* b, const int* ldb, int* info);
extern "C" void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);

namespace fireq::quant {
namespace {

constexpr int64_t kTile = 96;     // of X^T X: the unit of work of a thread
constexpr int64_t kColumns = 32;  // of a system of equations, likewise

// Tiles of x^T y for x [rows, K], y [rows, M], out [K, M]; those with columns past their rows only
// if not `lower`.
void AddTiles(const float* x, const float* y, bool lower, Matrix<float>& out,
              std::vector<ProductTile>& tiles) {
  for (int64_t i = 0; i < out.rows; i += kTile)
    for (int64_t j = 0; j < (lower ? i + 1 : out.cols); j += kTile)
      tiles.push_back({x + i, y + j, out.rows, out.cols, std::min(kTile, out.rows - i),
                       std::min(kTile, out.cols - j), out.row(i) + j, out.cols});
}

void Run(const std::vector<ProductTile>& tiles, int64_t rows, ThreadPool& pool) {
  pool.ParallelFor(std::ssize(tiles), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) AddTile(tiles[static_cast<size_t>(i)], rows);
  });
}

}  // namespace

InputMoments::InputMoments(int64_t k, bool full)
    : k_(k), full_(full), diagonal_(static_cast<size_t>(k), 0.0) {
  if (full) products_ = Matrix<float>(k, k);
}

void InputMoments::Add(const float* x, int64_t rows, const std::string& name, ThreadPool& pool,
                       const float* y, Matrix<float>* cross) {
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
  std::vector<ProductTile> tiles;
  if (full_) AddTiles(x, x, /*lower=*/true, products_, tiles);  // symmetric: Damped() mirrors
  if (cross) AddTiles(x, y, /*lower=*/false, *cross, tiles);
  Run(tiles, rows, pool);
  tokens_ += rows;
}

double InputMoments::DampingTerm(double damping) const {
  return DampingOf(diagonal_, damping).term;
}

double InputMoments::Unit(double damping) const { return DampingOf(diagonal_, damping).unit; }

std::vector<float> InputMoments::Importance(double damping) const {
  return ImportanceOf(diagonal_, damping);
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

Matrix<float> InputMoments::WithinGroups() const {
  FIREQ_CHECK(full_, kInternal, "only the diagonal of X^T X was kept");
  Matrix<float> out(k_, kGroup);
  for (int64_t i = 0; i < k_; ++i) {
    const int64_t first = i / kGroup * kGroup;
    for (int64_t j = first; j < std::min(first + kGroup, k_); ++j)
      out.at(i, j - first) = products_.at(std::max(i, j), std::min(i, j));
  }
  return out;
}

void SolvePositive(Matrix<float> h, Matrix<float>& b, const std::string& name, ThreadPool& pool) {
  const int size = static_cast<int>(h.rows);
  int info = 0;
  const SingleThreadBlas blas;
  spotrf_("U", &size, h.data.data(), &size, &info);
  CheckPositiveDefinite(info, h.rows, name);
  pool.ParallelFor(CeilDiv(b.cols, kColumns), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t first = begin * kColumns; first < std::min(end * kColumns, b.cols);
         first += kColumns) {
      // LAPACK's matrices lie by columns: b's go there and back transposed.
      const int columns = static_cast<int>(std::min(kColumns, b.cols - first));
      Matrix<float> turned(columns, b.rows);
      for (int64_t i = 0; i < b.rows; ++i)
        for (int64_t j = 0; j < columns; ++j) turned.at(j, i) = b.at(i, first + j);
      int failed = 0;  // only for wrong arguments
      spotrs_("U", &size, &columns, h.data.data(), &size, turned.data.data(), &size, &failed);
      for (int64_t i = 0; i < b.rows; ++i)
        for (int64_t j = 0; j < columns; ++j) b.at(i, first + j) = turned.at(j, i);
    }
  });
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
  CheckPositiveDefinite(info, n, name);
  Matrix<float> feedback(n, n);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t column = n - 1 - k;
    const float diagonal = reversed.at(column, column);
    for (int64_t j = 0; j < k; ++j) feedback.at(j, k) = reversed.at(n - 1 - j, column) / diagonal;
  }
  return feedback;
}

}  // namespace fireq::quant
