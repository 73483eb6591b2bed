// The rival's weights: what its kernels could multiply by, and never worse for searching.
#include "fireq/quant/progressive.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "fireq/formats/bf16.h"

namespace fireq::quant {
namespace {

Matrix<float> Weights(int64_t n, int64_t k) {
  std::mt19937 engine(5);
  std::student_t_distribution<float> heavy(4.0f);
  Matrix<float> w(n, k);
  for (float& x : w.data) x = 0.02f * heavy(engine);
  for (int64_t j = 0; j < k; ++j) w.at(n - 1, j) = 0.0f;
  return w;
}

double Error(const Matrix<float>& w, const Matrix<float>& rounded, const std::vector<float>& h) {
  double error = 0.0;
  for (int64_t n = 0; n < w.rows; ++n)
    for (int64_t k = 0; k < w.cols; ++k)
      error += h[static_cast<size_t>(k)] * std::pow(double{rounded.at(n, k)} - w.at(n, k), 2);
  return error;
}

TEST(Progressive, AGroupHasSixteenIntegersOfOneStep) {
  const Matrix<float> w = Weights(9, 200);
  ThreadPool pool(2);
  const std::vector<float> ones(200, 1.0f);
  const Matrix<float> rounded = RoundProgressively(w, ones, true, pool);
  for (int64_t n = 0; n + 1 < w.rows; ++n) {
    float largest = 0.0f;
    for (int64_t k = 0; k < w.cols; ++k) largest = std::max(largest, std::fabs(w.at(n, k)));
    const float s0 = Bf16ToFloat(FloatToBf16(largest / 119.0f));
    for (int64_t first = 0; first < w.cols; first += 128) {
      std::set<int> values;
      for (int64_t k = first; k < std::min<int64_t>(first + 128, w.cols); ++k) {
        const float units = rounded.at(n, k) / s0;
        EXPECT_NEAR(units, std::round(units), 1e-3);
        EXPECT_LE(std::fabs(units), 128.0f);
        values.insert(static_cast<int>(std::round(units)));
      }
      EXPECT_LE(values.size(), 16u);
      int step = 0;  // all differences are multiples of the group's scale
      for (auto it = std::next(values.begin()); it != values.end(); ++it)
        step = std::gcd(step, *it - *std::prev(it));
      EXPECT_GE(step * 15 + 1, *values.rbegin() - *values.begin());
    }
  }
  for (int64_t k = 0; k < w.cols; ++k) EXPECT_EQ(rounded.at(w.rows - 1, k), 0.0f);
}

TEST(Progressive, SearchingLowersTheWeightedErrorAndThreadsChangeNothing) {
  const Matrix<float> w = Weights(40, 300);
  std::vector<float> h(300, 0.1f);
  for (size_t k = 0; k < h.size(); k += 7) h[k] = 5.0f;
  ThreadPool one(1), three(3);
  const Matrix<float> plain = RoundProgressively(w, h, false, one);
  const Matrix<float> searched = RoundProgressively(w, h, true, one);
  EXPECT_LT(Error(w, searched, h), 0.95 * Error(w, plain, h));
  EXPECT_EQ(RoundProgressively(w, h, true, three).data, searched.data);
}

}  // namespace
}  // namespace fireq::quant
