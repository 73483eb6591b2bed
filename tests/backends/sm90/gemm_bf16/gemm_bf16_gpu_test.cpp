// lm_head's GEMM against double, over numbers of tokens that take each variant and rows of the
// weight that no tile divides.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "fireq/backends/sm90/gemm_bf16/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq::sm90 {
namespace {

class GemmBf16 : public testing::Test {
 protected:
  void SetUp() override { FIREQ_NEEDS_HOPPER(); }

  std::vector<bf16_t> Random(int64_t count, float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<bf16_t> out(static_cast<size_t>(count));
    for (bf16_t& x : out) x = FloatToBf16(normal(rng_));
    return out;
  }

  struct Result {
    std::vector<float> y;
    std::vector<int32_t> largest;
  };
  // Of the first m rows of x, into poisoned memory.
  static Result Run(const DeviceBuffer<bf16_t>& x, const DeviceBuffer<bf16_t>& w, int64_t m,
                    int64_t n, int64_t k) {
    DeviceBuffer<float> y(m * n);
    DeviceBuffer<int32_t> largest(m), alone(m);
    y.FillBytes(0xFF);
    largest.FillBytes(0x7F);
    alone.FillBytes(0x7F);
    DeviceBuffer<uint8_t> workspace(GemmBf16WorkspaceBytes());
    workspace.FillBytes(0xFF);
    const Stream stream;
    GemmBf16Args args{.x = x.data(),
                      .w = w.data(),
                      .y = y.data(),
                      .largest = largest.data(),
                      .workspace = workspace.data(),
                      .m = m,
                      .n = n,
                      .k = k};
    LaunchGemmBf16(args, stream.get());
    args.y = nullptr;
    args.largest = alone.data();
    LaunchGemmBf16(args, stream.get());
    stream.Synchronize();
    EXPECT_EQ(largest.ToHost(), alone.ToHost());
    return {y.ToHost(), largest.ToHost()};
  }

  std::mt19937 rng_{std::random_device{}()};
};

TEST_F(GemmBf16, EveryOutputIsTheProductAndTheLargestIsFound) {
  struct Shape3 {
    int64_t n, k;
  };
  for (const auto& [n, k] : {Shape3{1000, 576}, {1001, 72}, {31, 64}, {33, 1032}, {9000, 8}}) {
    constexpr int64_t kMost = 300;
    const std::vector<bf16_t> x = Random(kMost * k, 1.0f), w = Random(n * k, 0.05f);
    const DeviceBuffer<bf16_t> device_x(x), device_w(w);
    for (const int64_t m : {1, 2, 17, 64, 65, 128, 129, 256, 300}) {
      const Result got = Run(device_x, device_w, m, n, k);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0.0, magnitude = 0.0;
          for (int64_t c = 0; c < k; ++c) {
            const double product = double{Bf16ToFloat(x[static_cast<size_t>(i * k + c)])} *
                                   double{Bf16ToFloat(w[static_cast<size_t>(j * k + c)])};
            sum += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(got.y[static_cast<size_t>(i * n + j)], sum, 2e-6 * magnitude)
              << m << " x " << n << " x " << k << " at " << i << ", " << j;
        }
        const auto row = got.y.begin() + i * n;
        ASSERT_EQ(got.largest[static_cast<size_t>(i)], std::max_element(row, row + n) - row);
      }
    }
  }
}

TEST_F(GemmBf16, RowsAreTheSameBitsInAnyNumberOfThem) {
  constexpr int64_t kN = 40000, kK = 4096, kMost = 256;
  const DeviceBuffer<bf16_t> x(Random(kMost * kK, 1.0f)), w(Random(kN * kK, 0.02f));
  const Result all = Run(x, w, kMost, kN, kK);
  for (const int64_t m : {1, 64, 65, 129}) {
    const Result some = Run(x, w, m, kN, kK);
    EXPECT_TRUE(std::equal(some.y.begin(), some.y.end(), all.y.begin())) << m;
    EXPECT_TRUE(std::equal(some.largest.begin(), some.largest.end(), all.largest.begin())) << m;
    constexpr int64_t kPart = 8000;  // few rows for each CTA
    const Result part = Run(x, w, m, kPart, kK);
    for (int64_t i = 0; i < m; ++i) {
      const auto row = part.y.begin() + i * kPart;
      EXPECT_TRUE(std::equal(row, row + kPart, all.y.begin() + i * kN)) << m << ", row " << i;
    }
  }
}

TEST_F(GemmBf16, TheLargestIsTheFirstOfEqualOnesAndNoNan) {
  constexpr int64_t kN = 20000, kK = 64, kM = 3;
  std::vector<bf16_t> x = Random(kM * kK, 1.0f), w = Random(kN * kK, 1.0f);
  const bf16_t nan = FloatToBf16(NAN);
  for (int64_t j = 0; j < 333; ++j) w[static_cast<size_t>(j * kK)] = nan;
  for (int64_t c = 0; c < kK; ++c) {  // x of itself is far above the rest
    for (const int64_t j : {7, 400, 401, 12000})
      w[static_cast<size_t>(j * kK + c)] = x[static_cast<size_t>(c)];
    x[static_cast<size_t>(kK + c)] = 0;  // all equal
    x[static_cast<size_t>(2 * kK + c)] = nan;
  }
  w[7 * kK] = nan;
  const Result got = Run(DeviceBuffer<bf16_t>(x), DeviceBuffer<bf16_t>(w), kM, kN, kK);
  EXPECT_EQ(got.largest, (std::vector<int32_t>{400, 333, -1}));
}

}  // namespace
}  // namespace fireq::sm90
