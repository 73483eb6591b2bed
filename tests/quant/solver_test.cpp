// The Hessian's algebra against double references, and what error compensation must achieve.
#include "fireq/quant/solver.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "fireq/base/error.h"
#include "fireq/quant/grid.h"
#include "fireq/quant/moments.h"

namespace fireq::quant {
namespace {

// Correlated activations: a few strong directions over noise, one dead channel.
Matrix<float> Activations(int64_t tokens, int64_t k, uint32_t seed, int64_t dead = -1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  Matrix<float> directions(3, k), x(tokens, k);
  for (float& v : directions.data) v = normal(engine);
  for (int64_t t = 0; t < tokens; ++t) {
    const float a = normal(engine), b = normal(engine), c = normal(engine);
    for (int64_t j = 0; j < k; ++j) {
      x.at(t, j) = a * directions.at(0, j) + b * directions.at(1, j) + c * directions.at(2, j) +
                   0.3f * normal(engine);
      if (j == dead) x.at(t, j) = 0.0f;
    }
  }
  return x;
}

Matrix<float> Weights(int64_t n, int64_t k, uint32_t seed) {
  std::mt19937 engine(seed);
  std::student_t_distribution<float> heavy(5.0f);
  Matrix<float> w(n, k);
  for (float& v : w.data) v = 0.05f * heavy(engine);
  return w;
}

double OutputError(const Matrix<float>& w, const WeightI4& stored, const Matrix<float>& h,
                   Products products) {
  double total = 0.0;
  std::vector<float> row(static_cast<size_t>(w.cols));
  for (int64_t n = 0; n < w.rows; ++n) {
    DequantizeRow(stored, n, products, row.data());
    for (int64_t k = 0; k < w.cols; ++k) row[static_cast<size_t>(k)] -= w.at(n, k);
    for (int64_t i = 0; i < w.cols; ++i)
      for (int64_t j = 0; j < w.cols; ++j)
        total += double{row[static_cast<size_t>(i)]} * h.at(i, j) * row[static_cast<size_t>(j)];
  }
  return total;
}

TEST(InputMoments, FullProductsEqualADoubleReference) {
  ThreadPool pool(3);
  const int64_t k = 300;  // more than one tile, the last one short
  constexpr int64_t kTokens = 170;
  const Matrix<float> x = Activations(kTokens, k, 1), y = Activations(kTokens, 50, 9);
  Matrix<float> cross(k, 50);
  InputMoments moments(k, true);
  moments.Add(x.row(0), 130, "x", pool, y.row(0), &cross);
  moments.Add(x.row(130), 40, "x", pool, y.row(130), &cross);
  EXPECT_EQ(moments.tokens(), kTokens);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < cross.cols; ++j) {
      double want = 0.0;
      for (int64_t t = 0; t < kTokens; ++t) want += double{x.at(t, i)} * y.at(t, j);
      ASSERT_NEAR(cross.at(i, j), want, 1e-3) << i << ", " << j;
    }
  }
  Matrix<double> expected(k, k);
  double mean = 0.0;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j)
      for (int64_t t = 0; t < kTokens; ++t) expected.at(i, j) += double{x.at(t, i)} * x.at(t, j);
    mean += expected.at(i, i) / static_cast<double>(k);
  }
  const Matrix<float> damped = moments.Damped(0.1);
  const std::vector<float> importance = moments.Importance(0.1);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const double want = (expected.at(i, j) + (i == j ? 0.1 * mean : 0.0)) / (1.1 * mean);
      ASSERT_NEAR(damped.at(i, j), want, 2e-6 * 20) << i << ", " << j;
    }
    ASSERT_NEAR(importance[static_cast<size_t>(i)], damped.at(i, i), 1e-6);
  }
  const Matrix<float> within = moments.WithinGroups();
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < 128; ++j) {
      const int64_t column = i / 128 * 128 + j;
      ASSERT_NEAR(within.at(i, j), column < k ? expected.at(i, column) : 0.0, 1e-5 * mean)
          << i << ", " << j;
    }
}

TEST(InputMoments, DeadChannelsAndDeadInputsStayPositive) {
  ThreadPool pool(1);
  const Matrix<float> x = Activations(50, 20, 2, /*dead=*/7);
  InputMoments moments(20, true);
  moments.Add(x.row(0), 50, "x", pool);
  EXPECT_GT(moments.Importance(0.0)[7], 0.0f);
  EXPECT_NO_THROW(MakeSolverPlan(moments.Damped(0.0), "dead channel"));
  InputMoments nothing(20, true);
  nothing.Add(std::vector<float>(20 * 4, 0.0f).data(), 4, "x", pool);
  for (const float h : nothing.Importance(0.1)) EXPECT_EQ(h, 1.0f);
}

TEST(InputMoments, NonFiniteActivationsAreRefusedByName) {
  ThreadPool pool(1);
  InputMoments moments(4, false);
  const std::vector<float> x = {1, 2, INFINITY, 4};
  try {
    moments.Add(x.data(), 1, "layer 3 mlp_hidden", pool);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 3 mlp_hidden"), std::string::npos);
  }
}

TEST(FeedbackWeights, FactoriseTheHessian) {
  ThreadPool pool(1);
  const int64_t k = 40;
  const Matrix<float> x = Activations(200, k, 3);
  InputMoments moments(k, true);
  moments.Add(x.row(0), 200, "x", pool);
  const Matrix<float> h = moments.Damped(0.01);
  const Matrix<float> a = FeedbackWeights(h, "x");
  // h = (A + I) D (A + I)^T: recover D from the last column upwards and compare.
  std::vector<double> d(static_cast<size_t>(k));
  const auto unit = [&](int64_t i, int64_t j) { return i == j ? 1.0 : double{a.at(i, j)}; };
  for (int64_t i = k - 1; i >= 0; --i) {
    d[static_cast<size_t>(i)] = h.at(i, i);
    for (int64_t m = i + 1; m < k; ++m)
      d[static_cast<size_t>(i)] -= unit(i, m) * unit(i, m) * d[static_cast<size_t>(m)];
  }
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      double sum = 0.0;
      for (int64_t m = std::max(i, j); m < k; ++m)
        sum += unit(i, m) * d[static_cast<size_t>(m)] * unit(j, m);
      ASSERT_NEAR(sum, h.at(i, j), 1e-5);
      if (j <= i) {
        ASSERT_EQ(a.at(i, j), 0.0f);
      }
    }
  }
}

// Error-compensated rounding by its definition: after each column the best values of the columns
// left, in double, by solving H_rest d = -H_rest,done e.
std::vector<int> NaiveGptq(const std::vector<double>& w, const Matrix<float>& h, float scale) {
  const size_t n = w.size();
  std::vector<double> adjusted = w;
  std::vector<int> codes(n);
  for (size_t i = 0; i < n; ++i) {
    codes[i] = static_cast<int>(std::clamp(std::nearbyint(adjusted[i] / scale) + 8, 0.0, 15.0));
    const double error = (codes[i] - 8) * double{scale} - adjusted[i];
    // Solve H_RR d = -h_Ri * error by Gaussian elimination.
    const size_t m = n - i - 1;
    std::vector<std::vector<double>> system(m, std::vector<double>(m + 1));
    for (size_t r = 0; r < m; ++r) {
      for (size_t c = 0; c < m; ++c)
        system[r][c] = h.at(static_cast<int64_t>(i + 1 + r), static_cast<int64_t>(i + 1 + c));
      system[r][m] = -error * h.at(static_cast<int64_t>(i + 1 + r), static_cast<int64_t>(i));
    }
    for (size_t p = 0; p < m; ++p)
      for (size_t r = 0; r < m; ++r) {
        if (r == p) continue;
        const double factor = system[r][p] / system[p][p];
        for (size_t c = p; c <= m; ++c) system[r][c] -= factor * system[p][c];
      }
    for (size_t r = 0; r < m; ++r) adjusted[i + 1 + r] += system[r][m] / system[r][r];
  }
  return codes;
}

TEST(Solver, EqualsTheDefinitionOfErrorCompensation) {
  ThreadPool pool(2);
  const int64_t k = 24, n = 70;
  const Matrix<float> x = Activations(200, k, 4);
  InputMoments moments(k, true);
  moments.Add(x.row(0), 200, "x", pool);
  const SolverPlan plan = MakeSolverPlan(moments.Damped(0.1), "x");
  const Matrix<float> w = Weights(n, k, 5);
  WeightI4 out = MakeWeightI4(n, k, 1.0f);
  SearchScales(w, moments.Importance(0.1), {WeightGrid::kSigned, true, ErrorProducts::kExact}, pool,
               out);
  SolveCodes(w, plan, ErrorProducts::kExact, 0, pool, out);
  int different = 0;
  for (int64_t row = 0; row < n; ++row) {
    std::vector<double> ordered(static_cast<size_t>(k));
    for (size_t i = 0; i < ordered.size(); ++i) ordered[i] = w.at(row, plan.order[i]);
    const std::vector<int> expected =
        NaiveGptq(ordered, plan.hessian, E4M3ToFloat(out.scale.as<e4m3_t>()[row]));
    for (size_t i = 0; i < expected.size(); ++i)
      different += CodeAt(out.codes.as<uint8_t>() + row * 12, plan.order[i]) != expected[i];
  }
  // FP32 against double: a tie may fall the other way, and then the rest of its row differs.
  EXPECT_LE(different, n * k / 200) << "of " << n * k;
}

TEST(Solver, CompensationAndSweepsLowerTheOutputError) {
  ThreadPool pool(2);
  const int64_t k = 200, n = 70;
  const Matrix<float> x = Activations(400, k, 6);
  InputMoments moments(k, true);
  moments.Add(x.row(0), 400, "x", pool);
  const Matrix<float> h = moments.Damped(0.01);
  const SolverPlan plan = MakeSolverPlan(h, "x");
  const Matrix<float> w = Weights(n, k, 7);
  for (const ErrorProducts products : {ErrorProducts::kTable, ErrorProducts::kExact}) {
    const Products served = products == ErrorProducts::kTable ? Products::kTable : Products::kExact;
    WeightI4 out = MakeWeightI4(n, k, ChooseTensorScale(w, pool));
    SearchScales(w, moments.Importance(0.01), {WeightGrid::kAsymmetric, true, products}, pool, out);
    RoundToNearest(w, pool, out);
    const double nearest = OutputError(w, out, h, served);
    double previous = nearest;
    for (const int64_t sweeps : {0, 1, 4}) {
      WeightI4 solved = MakeWeightI4(n, k, out.t);
      solved.scale = Tensor::FromVector(
          DType::kE4M3, out.scale.shape(),
          std::vector<e4m3_t>(out.scale.as<e4m3_t>(),
                              out.scale.as<e4m3_t>() + out.scale.num_elements()));
      solved.zero = out.zero;
      SolveCodes(w, plan, products, sweeps, pool, solved);
      const double error = OutputError(w, solved, h, served);
      EXPECT_LT(error, sweeps == 0 ? 0.6 * nearest : previous * 1.000001) << sweeps;
      previous = error;
    }
  }
}

TEST(Solver, RankOneHessianAndThreadsGiveTheSameCodes) {
  const int64_t k = 130, n = 200;
  Matrix<float> x(1, k);
  for (int64_t j = 0; j < k; ++j) x.at(0, j) = 0.01f * static_cast<float>(j - 60);
  const Matrix<float> w = Weights(n, k, 8);
  std::vector<uint8_t> first;
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    InputMoments moments(k, true);
    moments.Add(x.row(0), 1, "x", pool);
    const SolverPlan plan = MakeSolverPlan(moments.Damped(0.1), "x");
    WeightI4 out = MakeWeightI4(n, k, 1.0f);
    SearchScales(w, moments.Importance(0.1), GridSpec{}, pool, out);
    SolveCodes(w, plan, ErrorProducts::kMean, 2, pool, out);
    const std::vector<uint8_t> codes(out.codes.as<uint8_t>(),
                                     out.codes.as<uint8_t>() + out.codes.size_bytes());
    if (first.empty()) first = codes;
    EXPECT_EQ(codes, first) << threads;
  }
}

TEST(Solver, NearestProductIsTheNearestOfAllCodes) {
  for (const float scale : {0.0625f, 0.6875f, -1.375f, 0x1p-9f}) {
    for (const ErrorProducts products : {ErrorProducts::kTable, ErrorProducts::kExact}) {
      for (float w = -9.0f; w < 9.0f; w += 0.0371f) {
        const float x = w * std::fabs(scale);
        const ValuedCode best = NearestProduct(x, scale, 8.0f, products);
        for (int code = 0; code < 16; ++code) {
          const float value = products == ErrorProducts::kTable ? TableProduct(code, 8, scale)
                                                                : ExactProduct(code, 8, scale);
          ASSERT_LE(std::fabs(best.value - x), std::fabs(value - x) * 1.00001f)
              << "scale " << scale << " w " << x << " code " << code;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fireq::quant
