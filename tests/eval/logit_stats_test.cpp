#include "fireq/eval/logit_stats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace fireq {
namespace {

TEST(LogitStats, AgreesWithDouble) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, 4);
  for (const int64_t count : {1, 3, 16, 1023, 1024, 1025, 49152}) {
    std::vector<float> p(static_cast<size_t>(count)), q(p.size());
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = normal(rng) + 20;
      q[i] = p[i] + 0.3f * normal(rng);
    }
    const auto lse = [](const std::vector<float>& x) {
      double sum = 0;
      for (const float v : x) sum += std::exp(double{v});
      return std::log(sum);
    };
    const double p_lse = lse(p), q_lse = lse(q);
    EXPECT_NEAR(LogSumExp(p.data(), count), p_lse, 1e-5);
    double kl = 0;
    for (size_t i = 0; i < p.size(); ++i)
      kl += std::exp(p[i] - p_lse) * ((p[i] - p_lse) - (q[i] - q_lse));
    EXPECT_NEAR(KlDivergence(p.data(), p_lse, q.data(), q_lse, count), kl, 1e-5);
    EXPECT_EQ(ArgMax(p.data(), count), std::max_element(p.begin(), p.end()) - p.begin());
  }
}

TEST(LogitStats, EqualRowsHaveNoDistanceAndNanIsNan) {
  std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
  const double lse = LogSumExp(x.data(), 17);
  EXPECT_EQ(KlDivergence(x.data(), lse, x.data(), lse, 17), 0.0);
  x[3] = NAN;
  EXPECT_TRUE(std::isnan(LogSumExp(x.data(), 17)));
}

}  // namespace
}  // namespace fireq
