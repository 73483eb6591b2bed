// The corrected weights against their definition, in double.
#include "fireq/quant/correction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "fireq/tensor/tensor.h"

namespace fireq::quant {
namespace {

Tensor Random(int64_t rows, int64_t cols, uint32_t seed, float size) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, size);
  Tensor out = Tensor::Empty(DType::kF32, {rows, cols});
  for (int64_t i = 0; i < rows * cols; ++i) out.as<float>()[i] = normal(engine);
  return out;
}

constexpr int64_t kTokens = 500, kK = 300, kN = 70;  // more than one tile and row block
constexpr double kDamping = 0.3;

class CorrectionTest : public testing::Test {
 protected:
  CorrectionTest()
      : x_(Random(kTokens, kK, 1, 1.0f)),
        gap_(Random(kTokens, kK, 2, 0.2f)),
        behind_(Random(kTokens, kN, 3, 0.3f)),
        w_(kN, kK) {
    const Tensor w = Random(kN, kK, 4, 0.05f);
    std::copy_n(w.as<float>(), kN * kK, w_.data.begin());
    stats_.moments = InputMoments(kK, true);
  }

  void Add(const float* y = nullptr, Matrix<float>* cross = nullptr) {
    stats_.moments.Add(x_.as<float>(), kTokens, "x", pool_, y, cross);
  }

  double X(int64_t t, int64_t k) const { return x_.as<float>()[t * kK + k]; }

  // The gradient of the definition at `v`, relative to that at W.
  double RelativeGradient(const Matrix<float>& v) const {
    double term = 0.0;
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t k = 0; k < kK; ++k) term += kDamping * X(t, k) * X(t, k) / kK;
    double at_v = 0.0, at_w = 0.0;
    for (int64_t n = 0; n < 5; ++n) {
      std::vector<double> miss_v(kTokens), miss_w(kTokens);
      for (int64_t t = 0; t < kTokens; ++t) {
        double target = stats_.output_target.rows > 0 ? behind_.as<float>()[t * kN + n] : 0.0;
        for (int64_t k = 0; k < kK; ++k) {
          target += (X(t, k) + gap_.as<float>()[t * kK + k]) * w_.at(n, k);
          miss_v[static_cast<size_t>(t)] += X(t, k) * v.at(n, k);
          miss_w[static_cast<size_t>(t)] += X(t, k) * w_.at(n, k);
        }
        miss_v[static_cast<size_t>(t)] -= target;
        miss_w[static_cast<size_t>(t)] -= target;
      }
      for (int64_t k = 0; k < kK; ++k) {
        double gradient_v = term * (double{v.at(n, k)} - w_.at(n, k)), gradient_w = 0.0;
        for (int64_t t = 0; t < kTokens; ++t) {
          gradient_v += miss_v[static_cast<size_t>(t)] * X(t, k);
          gradient_w += miss_w[static_cast<size_t>(t)] * X(t, k);
        }
        at_v += gradient_v * gradient_v;
        at_w += gradient_w * gradient_w;
      }
    }
    return std::sqrt(at_v / at_w);
  }

  ThreadPool pool_{3};
  const Tensor x_, gap_, behind_;
  Matrix<float> w_;
  InputStats stats_;
};

TEST_F(CorrectionTest, InputsAloneReachTheMinimum) {
  stats_.input_gap = Matrix<float>(kK, kK);
  Add(gap_.as<float>(), &stats_.input_gap);
  const Correction correction = StudyCorrection(stats_, kDamping, w_, "x", pool_);
  EXPECT_LT(RelativeGradient(Corrected(w_, correction, pool_)), 1e-4);
}

TEST_F(CorrectionTest, TheResidualStreamIsMadeUpForToo) {
  stats_.output_target = Matrix<float>(kK, kN);
  Matrix<float> target(kTokens, kN);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t n = 0; n < kN; ++n) {
      double sum = behind_.as<float>()[t * kN + n];
      for (int64_t k = 0; k < kK; ++k)
        sum += (X(t, k) + gap_.as<float>()[t * kK + k]) * w_.at(n, k);
      target.at(t, n) = static_cast<float>(sum);
    }
  }
  Add(target.row(0), &stats_.output_target);
  const Correction correction = StudyCorrection(stats_, kDamping, w_, "x", pool_);
  const Matrix<float> v = Corrected(w_, correction, pool_);
  EXPECT_LT(RelativeGradient(v), 1e-4);
  ThreadPool other(1);
  EXPECT_EQ(Corrected(w_, StudyCorrection(stats_, kDamping, w_, "x", other), other).data, v.data);
}

TEST_F(CorrectionTest, WithoutAFollowedModelNothingChanges) {
  Add();
  EXPECT_EQ(Corrected(w_, StudyCorrection(stats_, kDamping, w_, "x", pool_), pool_).data, w_.data);
}

}  // namespace
}  // namespace fireq::quant
