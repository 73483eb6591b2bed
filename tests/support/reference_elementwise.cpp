#include "tests/support/reference_elementwise.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace fireq::testing {

std::vector<double> ReferenceRmsNorm(const std::vector<double>& x,
                                     const std::vector<double>& weight, double eps) {
  double squares = 0.0;
  for (const double v : x) squares += v * v;
  const double norm = std::sqrt(squares / static_cast<double>(x.size()) + eps);
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / norm * weight[i];
  return y;
}

std::vector<double> ReferenceTurn(const std::vector<double>& x, const HeadTurn& turn) {
  std::vector<double> v = turn.norm.empty() ? x : ReferenceRmsNorm(x, turn.norm, turn.eps);
  const size_t half = x.size() / 2;
  for (size_t f = 0; f < half; ++f) {
    const double a = v[f];
    const double b = v[f + half];
    v[f] = a * turn.cos[f] - b * turn.sin[f];
    v[f + half] = b * turn.cos[f] + a * turn.sin[f];
  }
  for (size_t i = 0; i < turn.crs.size(); ++i) v[i] *= turn.crs[i];
  for (size_t i = 0; i < turn.shift.size(); ++i) v[i] -= turn.shift[i];
  if (!turn.hadamard) return v;
  std::vector<double> y(x.size(), 0.0);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) {
      y[i] += (std::popcount(i & j) % 2 == 0 ? v[j] : -v[j]);
    }
    y[i] /= std::sqrt(static_cast<double>(x.size()));
  }
  return y;
}

double E4M3HalfStep(double value) {
  const double magnitude = std::max(std::abs(value), 0x1p-6);
  return std::exp2(std::floor(std::log2(magnitude))) / 16 * (1 + 1e-4);
}

}  // namespace fireq::testing
