#include "fireq/quant/rotation.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fireq/base/error.h"

namespace fireq::quant {
namespace {

// SplitMix64: small, and the same everywhere, which the standard's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  // In (0, 1).
  double Uniform() { return (static_cast<double>(Next() >> 11) + 0.5) * 0x1p-53; }
  double Normal() {
    const double radius = std::sqrt(-2.0 * std::log(Uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * Uniform());
  }

 private:
  uint64_t state_;
};

// Gram-Schmidt, twice over for orthogonality to the last bits, of a Gaussian matrix.
std::vector<double> RandomOrthogonal(int64_t n, Random& random) {
  std::vector<double> rows(static_cast<size_t>(n * n));
  for (double& x : rows) x = random.Normal();
  for (int64_t i = 0; i < n; ++i) {
    double* row = rows.data() + i * n;
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        const double* other = rows.data() + j * n;
        double dot = 0.0;
        for (int64_t k = 0; k < n; ++k) dot += row[k] * other[k];
        for (int64_t k = 0; k < n; ++k) row[k] -= dot * other[k];
      }
      double norm = 0.0;
      for (int64_t k = 0; k < n; ++k) norm += row[k] * row[k];
      for (int64_t k = 0; k < n; ++k) row[k] /= std::sqrt(norm);
    }
  }
  return rows;
}

}  // namespace

Rotation::Rotation(int64_t n, uint64_t seed) : n_(n) {
  FIREQ_CHECK(n >= 1, kInvalidArgument, "rotation of size ", n);
  power_ = n & -n;
  odd_ = n / power_;
  FIREQ_CHECK(odd_ <= 4096, kUnsupported, "rotation of size ", n, ": its odd part ", odd_,
              " is above 4096");
  Random random(seed * 0x2545F4914F6CDD1Du + static_cast<uint64_t>(n));
  signs_.resize(static_cast<size_t>(n));
  for (double& sign : signs_) sign = random.Next() >> 63 ? -1.0 : 1.0;
  mix_ = odd_ > 1 ? RandomOrthogonal(odd_, random) : std::vector<double>{1.0};
}

template <class T>
void Rotation::ApplyToRow(T* x) const {
  const T scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(power_)));
  for (int64_t i = 0; i < n_; ++i) x[i] *= static_cast<T>(signs_[static_cast<size_t>(i)]) * scale;
  for (int64_t span = 1; span < power_; span *= 2) {
    for (int64_t base = 0; base < n_; base += 2 * span) {
      for (int64_t i = base; i < base + span; ++i) {
        const T a = x[i], b = x[i + span];
        x[i] = a + b;
        x[i + span] = a - b;
      }
    }
  }
  if (odd_ == 1) return;
  std::vector<T> mixed(static_cast<size_t>(n_), T{0});
  for (int64_t from = 0; from < odd_; ++from) {
    for (int64_t to = 0; to < odd_; ++to) {
      const T factor = static_cast<T>(mix_[static_cast<size_t>(from * odd_ + to)]);
      const T* source = x + from * power_;
      T* target = mixed.data() + to * power_;
      for (int64_t i = 0; i < power_; ++i) target[i] += factor * source[i];
    }
  }
  std::copy(mixed.begin(), mixed.end(), x);
}

template <class T>
void Rotation::RotateInput(Matrix<T>& weight, int64_t begin, ThreadPool& pool) const {
  FIREQ_CHECK(begin >= 0 && begin + n_ <= weight.cols, kShapeMismatch, "rotation of columns ",
              begin, "..", begin + n_, " of ", weight.cols);
  pool.ParallelFor(weight.rows, 16, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) ApplyToRow(weight.row(row) + begin);
  });
}

template <class T>
void Rotation::RotateOutput(Matrix<T>& weight, int64_t begin, ThreadPool& pool) const {
  FIREQ_CHECK(begin >= 0 && begin + n_ <= weight.rows, kShapeMismatch, "rotation of rows ", begin,
              "..", begin + n_, " of ", weight.rows);
  pool.ParallelFor(weight.cols, 16, [&](int64_t first, int64_t last, int) {
    std::vector<T> column(static_cast<size_t>(n_));
    for (int64_t col = first; col < last; ++col) {
      for (int64_t i = 0; i < n_; ++i) column[static_cast<size_t>(i)] = weight.at(begin + i, col);
      ApplyToRow(column.data());
      for (int64_t i = 0; i < n_; ++i) weight.at(begin + i, col) = column[static_cast<size_t>(i)];
    }
  });
}

template void Rotation::ApplyToRow<float>(float*) const;
template void Rotation::ApplyToRow<double>(double*) const;
template void Rotation::RotateInput<float>(Matrix<float>&, int64_t, ThreadPool&) const;
template void Rotation::RotateInput<double>(Matrix<double>&, int64_t, ThreadPool&) const;
template void Rotation::RotateOutput<float>(Matrix<float>&, int64_t, ThreadPool&) const;
template void Rotation::RotateOutput<double>(Matrix<double>&, int64_t, ThreadPool&) const;

}  // namespace fireq::quant
