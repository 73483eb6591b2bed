#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "fireq/backends/sm90/elementwise/few_rows.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/int4.h"

namespace fireq::sm90 {
namespace {

class RowQuant : public testing::Test {
 protected:
  void SetUp() override {
    if (HasHopper()) return;
    if (std::getenv("FIREQ_REQUIRE_GPU") != nullptr) FAIL() << "no GPU of compute capability 9.0";
    GTEST_SKIP() << "no GPU of compute capability 9.0";
  }
};

struct HostRows {
  std::vector<uint8_t> codes;
  std::vector<float> scales, sums;
};

struct DeviceRows {
  int64_t groups;
  DeviceBuffer<uint8_t> codes;
  DeviceBuffer<float> scales, sums;
  DeviceRows(int64_t rows, int64_t k)
      : groups((k + kGroup - 1) / kGroup), codes(rows * k), scales(rows), sums(rows * groups) {
    codes.FillBytes(0xFF);
    scales.FillBytes(0xFF);
    sums.FillBytes(0xFF);
  }
  QuantizedRows view() const { return {codes.data(), scales.data(), sums.data()}; }
  HostRows ToHost() const { return {codes.ToHost(), scales.ToHost(), sums.ToHost()}; }
};

std::vector<uint16_t> RandomBf16(int64_t count, float spread, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<uint16_t> v(static_cast<size_t>(count));
  for (auto& x : v) x = FloatToBf16(normal(rng) * (rng() % 97 == 0 ? 30.0f : 1.0f));
  return v;
}

// The formats' own rule, row by row.
void ExpectRow(const HostRows& got, int64_t row, const std::vector<float>& x, bool exactly) {
  const int64_t k = static_cast<int64_t>(x.size()), groups = (k + kGroup - 1) / kGroup;
  float absmax = 0.0f;
  for (const float v : x) absmax = std::isnan(v) ? NAN : std::max(absmax, std::fabs(v));
  for (const float v : x)
    if (std::isnan(v)) absmax = NAN;
  const TokenScale scale = MakeTokenScale(absmax);
  const float got_scale = got.scales[static_cast<size_t>(row)];
  if (std::isnan(scale.scale)) {
    EXPECT_TRUE(std::isnan(got_scale));
  } else {
    EXPECT_NEAR(got_scale, scale.scale, exactly ? 0.0f : 4e-6f * scale.scale);
  }
  int64_t differing = 0;
  std::vector<double> sums(static_cast<size_t>(groups));
  for (int64_t j = 0; j < k; ++j) {
    const uint8_t code = got.codes[static_cast<size_t>(row * k + j)];
    const float want = RoundToE4M3(x[static_cast<size_t>(j)] * scale.inv_scale);
    const float value = E4M3ToFloat(code);
    sums[static_cast<size_t>(j / kGroup)] += value;
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(value));
    } else if (value != want) {
      ++differing;
      ASSERT_LE(std::fabs(value - want), 0.14f * std::fabs(want) + 0x1p-9f);
    }
  }
  // A norm's sum of squares is added in another order: a code on a border may fall either way.
  EXPECT_LE(differing, exactly ? 0 : 1 + k / 500) << "row " << row;
  for (int64_t g = 0; g < groups; ++g) {
    const float sum = got.sums[static_cast<size_t>(row * groups + g)];
    if (std::isnan(sums[static_cast<size_t>(g)])) {
      ASSERT_TRUE(std::isnan(sum));
    } else {
      ASSERT_EQ(sum, static_cast<float>(sums[static_cast<size_t>(g)]));
    }
  }
}

struct RowsOf {
  int64_t k, rows;
};

// quantize_rows of BF16 x [rows, k], every row.
void ExpectQuantizedRows(const std::vector<uint16_t>& x, int64_t rows, int64_t k) {
  const DeviceBuffer<uint16_t> input(x);
  const DeviceRows out(rows, k);
  const Stream stream;
  LaunchQuantizeRows({input.data(), rows, k, out.view()}, stream.get());
  stream.Synchronize();
  const HostRows got = out.ToHost();
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<float> values;
    for (int64_t j = 0; j < k; ++j)
      values.push_back(Bf16ToFloat(x[static_cast<size_t>(row * k + j)]));
    ExpectRow(got, row, values, true);
  }
}

TEST_F(RowQuant, QuantizeRowsIsTheFormatsRule) {
  // Up to 264 rows some have launches of their own.
  for (const auto& [k, rows] : {RowsOf{64, 7},
                                {576, 7},
                                {4096, 7},
                                {4096, 300},
                                {5120, 7},
                                {5120, 265},
                                {6144, 7},
                                {7168, 264},
                                {8192, 7},
                                {8192, 265},
                                {11008, 7},
                                {11008, 265},
                                {14336, 264},
                                {14336, 300},
                                {28672, 7},
                                {28672, 265}}) {
    std::vector<uint16_t> x = RandomBf16(rows * k, 3.0f, static_cast<uint32_t>(k));
    for (int64_t j = 0; j < k; ++j) x[static_cast<size_t>(2 * k + j)] = 0;
    x[static_cast<size_t>(4 * k + k / 2)] = 0x7FC0;  // NaN
    ExpectQuantizedRows(x, rows, k);
  }
}

// Sums of groups whose codes are as far apart as codes are: what is added inexactly loses the small
// ones, and above 2^15 FP32 has no place for all of them.
TEST_F(RowQuant, SumsAreRoundedOnce) {
  for (const int64_t k : {64, 576, 4096, 7168, 8192, 11008, 14336}) {
    const int64_t rows = 300;
    std::mt19937 rng(static_cast<uint32_t>(k));
    std::vector<uint16_t> x(static_cast<size_t>(rows * k));
    for (int64_t row = 0; row < rows; ++row) {
      const bool mixed = row % 2 != 0;
      for (int64_t j = 0; j < k; ++j) {
        const float small = static_cast<float>(rng() % 8) * 0x1p-9f;
        const float large = mixed && rng() % 2 == 0 ? -448.0f : 448.0f;
        x[static_cast<size_t>(row * k + j)] = FloatToBf16(rng() % 4 == 0 ? small : large);
      }
    }
    ExpectQuantizedRows(x, rows, k);
  }
}

TEST_F(RowQuant, RmsNormQuantAddsNormsAndRounds) {
  for (const auto& [k, rows] : {RowsOf{64, 5},
                                {576, 5},
                                {4096, 5},
                                {4096, 265},
                                {5120, 5},
                                {5120, 265},
                                {8192, 5},
                                {8192, 265},
                                {14336, 5},
                                {28672, 5}}) {
    for (const auto& [with_residual, any_order] :
         {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
      const float eps = 1e-5f;
      std::vector<uint16_t> x = RandomBf16(rows * k, 0.7f, 1),
                            residual = RandomBf16(rows * k, 2.0f, 2);
      std::vector<float> weight(static_cast<size_t>(k));
      std::mt19937 rng(3);
      for (float& w : weight) w = 0.5f + static_cast<float>(rng() % 1000) * 1e-3f;
      // The sum may be in the residual's place.
      const DeviceBuffer<uint16_t> dx(x);
      DeviceBuffer<uint16_t> dr(residual), apart(rows * k);
      DeviceBuffer<uint16_t>& sum = any_order ? apart : dr;
      const DeviceBuffer<float> dw(weight);
      const DeviceRows out(rows, k);
      const Stream stream;
      const RmsNormQuantArgs args{
          dx.data(), with_residual ? dr.data() : nullptr, sum.data(), dw.data(), eps, rows, k,
          out.view()};
      if (!any_order || !LaunchRmsNormQuantOfFewRows(args, stream.get()))
        LaunchRmsNormQuant(args, stream.get());
      stream.Synchronize();
      const HostRows got = out.ToHost();
      const std::vector<uint16_t> sums = sum.ToHost();
      for (int64_t row = 0; row < rows; ++row) {
        std::vector<float> r;
        double squares = 0.0;
        for (int64_t j = 0; j < k; ++j) {
          const size_t at = static_cast<size_t>(row * k + j);
          float v = Bf16ToFloat(x[at]);
          if (with_residual) {
            v = RoundToBf16(v + Bf16ToFloat(residual[at]));
            ASSERT_EQ(sums[at], FloatToBf16(v));
          }
          r.push_back(v);
          squares += static_cast<double>(v) * v;
        }
        const double inv = 1.0 / std::sqrt(squares / static_cast<double>(k) + eps);
        for (int64_t j = 0; j < k; ++j)
          r[static_cast<size_t>(j)] =
              static_cast<float>(r[static_cast<size_t>(j)] * inv * weight[static_cast<size_t>(j)]);
        ExpectRow(got, row, r, false);
      }
    }
  }
}

}  // namespace
}  // namespace fireq::sm90
