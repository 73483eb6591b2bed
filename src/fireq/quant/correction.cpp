#include "fireq/quant/correction.h"

#include <cblas.h>

#include <algorithm>

#include "fireq/quant/blas.h"

namespace fireq::quant {
namespace {

constexpr int64_t kRows = 64;  // of V: the unit of work of a thread

}  // namespace

Correction StudyCorrection(const InputStats& stats, double damping, const Matrix<float>& w,
                           const std::string& name, ThreadPool& pool) {
  const double unit = stats.moments.Unit(damping);
  Correction out{stats.input_gap, stats.output_target};
  for (Matrix<float>* b : {&out.input, &out.output}) {
    if (b->rows == 0) continue;
    for (float& x : b->data) x = static_cast<float>(x / unit);
    if (b == &out.output) {
      const float pull = static_cast<float>(stats.moments.DampingTerm(damping) / unit);
      for (int64_t n = 0; n < w.rows; ++n)
        for (int64_t k = 0; k < w.cols; ++k) b->at(k, n) += pull * w.at(n, k);
    }
    SolvePositive(stats.moments.Damped(damping), *b, name, pool);
  }
  return out;
}

Matrix<float> Corrected(const Matrix<float>& w, const Correction& correction, ThreadPool& pool) {
  Matrix<float> out = w;
  const SingleThreadBlas blas;
  const int k = static_cast<int>(w.cols);
  pool.ParallelFor(CeilDiv(w.rows, kRows), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t first = begin * kRows; first < std::min(end * kRows, w.rows); first += kRows) {
      const int64_t last = std::min(first + kRows, w.rows);
      if (correction.input.rows > 0)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(last - first), k, k,
                    1.0f, w.row(first), k, correction.input.data.data(), k, 1.0f, out.row(first),
                    k);
      for (int64_t j = 0; j < correction.output.rows; ++j)
        for (int64_t n = first; n < last; ++n) out.at(n, j) = correction.output.at(j, n);
    }
  });
  return out;
}

}  // namespace fireq::quant
