// The searches against a plain scalar reading of the served arithmetic, element for element.
#include "fireq/quant/grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "fireq/formats/rounding.h"

namespace fireq::quant {
namespace {

Matrix<float> RandomMatrix(int64_t n, int64_t k, float sigma, uint32_t seed) {
  std::mt19937 engine(seed);
  std::student_t_distribution<float> heavy(5.0f);
  Matrix<float> out(n, k);
  for (float& x : out.data) x = heavy(engine) * sigma;
  return out;
}

std::vector<float> RandomImportance(int64_t k, uint32_t seed) {
  std::mt19937 engine(seed);
  std::lognormal_distribution<float> draw(0.0f, 1.0f);
  std::vector<float> out(static_cast<size_t>(k));
  for (float& x : out) x = draw(engine);
  return out;
}

struct NaiveGroup {
  float scale = 0.0f;
  int zero = 0;
  double error = 0.0;
};

int NaiveCode(float w, float scale, int zero) {
  const double code = std::nearbyint(w / scale) + zero;
  return static_cast<int>(std::clamp(code, 0.0, 15.0));
}

double NaiveError(const float* w, const float* h, int64_t count, float scale, int zero,
                  ErrorProducts products) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const int code = NaiveCode(w[i], scale, zero);
    const double table = TableProduct(code, zero, scale) - double{w[i]};
    const double exact = ExactProduct(code, zero, scale) - double{w[i]};
    double squared = products == ErrorProducts::kTable ? table * table : exact * exact;
    if (products == ErrorProducts::kMean) squared = 0.5 * (table * table + exact * exact);
    sum += double{h[i]} * squared;
  }
  return sum;
}

float NaiveStored(float scale) {
  float stored = RoundToE4M3(scale);
  if (std::fabs(stored) < 0x1p-9f) stored = std::copysign(0x1p-9f, scale);
  return stored;
}

// All candidates as the page lists them, duplicates and all.
std::vector<NaiveGroup> NaiveCandidates(const float* w, int64_t count, const GridSpec& spec) {
  float lo = 0.0f, hi = 0.0f, extreme = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    lo = std::min(lo, w[i]);
    hi = std::max(hi, w[i]);
    if (std::fabs(w[i]) > std::fabs(extreme)) extreme = w[i];
  }
  std::vector<NaiveGroup> out;
  for (int i = 0; i < (spec.search ? 17 : 1); ++i) {
    const float f = 1.0f - 0.025f * static_cast<float>(i);
    if (spec.grid == WeightGrid::kSigned) out.push_back({NaiveStored(-extreme / 8 * f), 8});
    if (spec.grid != WeightGrid::kAsymmetric)
      out.push_back({NaiveStored(std::fabs(extreme) / 7 * f), 8});
    if (spec.grid == WeightGrid::kAsymmetric) {
      const float scale = NaiveStored((hi * f - lo * f) / 15);
      const double zero = std::nearbyint(-(lo * f) / scale);
      out.push_back({scale, static_cast<int>(std::clamp(zero, 0.0, 15.0))});
    }
  }
  return out;
}

using Case = std::tuple<WeightGrid, bool, ErrorProducts>;
class GridSearch : public testing::TestWithParam<Case> {};

TEST_P(GridSearch, EqualsTheNaiveReading) {
  const auto [grid, search, products] = GetParam();
  const GridSpec spec{grid, search, products};
  ThreadPool pool(3);
  for (const float sigma : {0.02f, 1e-4f, 300.0f}) {
    const Matrix<float> w = RandomMatrix(37, 333, sigma, 5);
    const std::vector<float> h = RandomImportance(333, 6);
    WeightI4 out = MakeWeightI4(w.rows, w.cols, ChooseTensorScale(w, pool));
    SearchScales(w, h, spec, pool, out);
    RoundToNearest(w, pool, out);
    for (int64_t n = 0; n < w.rows; ++n) {
      for (int64_t g = 0; g < 3; ++g) {
        const int64_t first = g * 128, count = std::min<int64_t>(128, w.cols - first);
        std::vector<float> group(w.row(n) + first, w.row(n) + first + count);
        for (float& x : group) x *= out.t;
        std::vector<NaiveGroup> naive = NaiveCandidates(group.data(), count, spec);
        const float scale = E4M3ToFloat(out.scale.as<e4m3_t>()[n * 3 + g]);
        const int zero = out.zero.as<uint8_t>()[n * 3 + g];
        bool is_candidate = false;
        double best = INFINITY, chosen = INFINITY;
        for (NaiveGroup& c : naive) {
          c.error = NaiveError(group.data(), h.data() + first, count, c.scale, c.zero, products);
          best = std::min(best, c.error);
          if (c.scale == scale && c.zero == zero) {
            is_candidate = true;
            chosen = c.error;
          }
        }
        ASSERT_TRUE(is_candidate) << "row " << n << " group " << g << " scale " << scale;
        // FP32 sums of 128 terms: candidates closer than this are a tie to the search.
        ASSERT_LE(chosen, best * (1 + 2e-5)) << "row " << n << " group " << g;
        const uint8_t* codes = out.codes.as<uint8_t>() + n * 167;
        for (int64_t i = 0; i < count; ++i)
          ASSERT_EQ(CodeAt(codes, first + i), NaiveCode(group[static_cast<size_t>(i)], scale, zero))
              << "row " << n << " column " << first + i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GridSearch,
                         testing::Combine(testing::Values(WeightGrid::kRtn, WeightGrid::kSigned,
                                                          WeightGrid::kAsymmetric),
                                          testing::Bool(),
                                          testing::Values(ErrorProducts::kTable,
                                                          ErrorProducts::kExact,
                                                          ErrorProducts::kMean)));

TEST(Grid, FirstOfEqualCandidatesWins) {
  const std::vector<float> w = {8.0f, -8.0f, 3.0f};
  const std::vector<float> h = {1.0f, 1.0f, 1.0f};
  // Both represent all of w exactly up to the clamp of one end: errors are equal.
  const std::vector<GroupGrid> both = {{1.0f, 8}, {-1.0f, 8}};
  EXPECT_EQ(BestCandidate(w, h, both, ErrorProducts::kTable), 0u);
  const std::vector<GroupGrid> reversed = {{-1.0f, 8}, {1.0f, 8}};
  EXPECT_EQ(BestCandidate(w, h, reversed, ErrorProducts::kTable), 0u);
}

TEST(Grid, TensorScaleLiftsSmallGroupsAndStopsBeforeOverflow) {
  ThreadPool pool(2);
  Matrix<float> w(2, 256);
  w.at(0, 0) = 1.0f;
  w.at(0, 200) = 1e-3f;  // scale 1e-3 / 7 underflows without t
  w.at(1, 3) = 0.5f;
  w.at(1, 130) = 0.5f;
  // 1e-3 * t >= 7 * 2^-9 from t = 16; nothing is gained beyond.
  EXPECT_EQ(ChooseTensorScale(w, pool), 16.0f);
  w.at(0, 200) = 1e-6f;  // never enough: as large as 448 lets it be
  EXPECT_EQ(ChooseTensorScale(w, pool), 256.0f);
  for (float& x : w.data) x = 0.0f;
  EXPECT_EQ(ChooseTensorScale(w, pool), 1.0f);
}

TEST(Grid, SameBytesForAnyNumberOfThreads) {
  const Matrix<float> w = RandomMatrix(200, 300, 0.05f, 9);
  const std::vector<float> h = RandomImportance(300, 10);
  std::vector<uint8_t> first;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    WeightI4 out = MakeWeightI4(200, 300, 1.0f);
    SearchScales(w, h, GridSpec{}, pool, out);
    RoundToNearest(w, pool, out);
    std::vector<uint8_t> bytes(out.codes.as<uint8_t>(),
                               out.codes.as<uint8_t>() + out.codes.size_bytes());
    bytes.insert(bytes.end(), out.scale.as<uint8_t>(),
                 out.scale.as<uint8_t>() + out.scale.size_bytes());
    if (first.empty()) first = bytes;
    EXPECT_EQ(bytes, first) << threads;
  }
}

TEST(Grid, ZeroGroupIsExactlyZero) {
  const Matrix<float> w(3, 130);
  ThreadPool pool(1);
  for (const WeightGrid grid : {WeightGrid::kRtn, WeightGrid::kSigned, WeightGrid::kAsymmetric}) {
    WeightI4 out = MakeWeightI4(3, 130, 1.0f);
    SearchScales(w, std::vector<float>(130, 1.0f), {grid, true, ErrorProducts::kTable}, pool, out);
    RoundToNearest(w, pool, out);
    std::vector<float> row(130, 1.0f);
    DequantizeRow(out, 2, Products::kTable, row.data());
    for (const float x : row) EXPECT_EQ(x, 0.0f);
    for (int i = 0; i < 6; ++i) EXPECT_NE(E4M3ToFloat(out.scale.as<e4m3_t>()[i]), 0.0f);
  }
}

}  // namespace
}  // namespace fireq::quant
