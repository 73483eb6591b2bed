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

// X^T X of channels that lean on each other, and of it what lies within groups of 128.
struct Moments {
  Matrix<float> all, within;
};

Moments RandomMoments(int64_t k) {
  std::mt19937 engine(6);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  Matrix<float> x(2 * k, k);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float shared = normal(engine);
    for (int64_t j = 0; j < k; ++j)
      x.at(t, j) = (j % 7 == 0 ? 4.0f : 0.3f) * (normal(engine) + shared);
  }
  Moments out{Matrix<float>(k, k), Matrix<float>(k, 128)};
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) {
      for (int64_t t = 0; t < x.rows; ++t) out.all.at(i, j) += x.at(t, i) * x.at(t, j);
      if (i / 128 == j / 128) out.within.at(i, j % 128) = out.all.at(i, j);
    }
  return out;
}

// Of the layer's output, each group's by itself.
double Error(const Matrix<float>& w, const Matrix<float>& rounded, const Moments& moments) {
  double error = 0.0;
  for (int64_t n = 0; n < w.rows; ++n)
    for (int64_t i = 0; i < w.cols; ++i)
      for (int64_t j = i / 128 * 128; j < std::min<int64_t>(i / 128 * 128 + 128, w.cols); ++j)
        error += (double{rounded.at(n, i)} - w.at(n, i)) * moments.all.at(i, j) *
                 (double{rounded.at(n, j)} - w.at(n, j));
  return error;
}

TEST(Progressive, AGroupHasSixteenIntegersOfOneStep) {
  const Matrix<float> w = Weights(9, 200);
  ThreadPool pool(2);
  const Moments moments = RandomMoments(200);
  const Matrix<float> rounded = RoundProgressively(w, &moments.within, pool);
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

TEST(Progressive, SearchingLowersTheOutputsErrorAndThreadsChangeNothing) {
  const Matrix<float> w = Weights(40, 300);
  const Moments moments = RandomMoments(300);
  ThreadPool one(1), three(3);
  const Matrix<float> plain = RoundProgressively(w, nullptr, one);
  const Matrix<float> searched = RoundProgressively(w, &moments.within, one);
  EXPECT_LT(Error(w, searched, moments), 0.95 * Error(w, plain, moments));
  EXPECT_EQ(RoundProgressively(w, &moments.within, three).data, searched.data);
}

}  // namespace
}  // namespace fireq::quant
