#include "fireq/engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "fireq/base/error.h"

namespace fireq {
namespace {

std::map<int32_t, int> Histogram(const SamplingParams& params, const std::vector<float>& logits,
                                 int draws) {
  Sampler sampler(params);
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[sampler.Sample(logits)];
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargestAndSkipsNan) {
  Sampler sampler({});
  EXPECT_EQ(sampler.Sample(std::vector<float>{0.0f, 3.0f, NAN, 3.0f}), 1);
  EXPECT_THROW(sampler.Sample(std::vector<float>{NAN, NAN}), Error);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0.0f, std::log(3.0f), std::log(6.0f)};
  const auto counts = Histogram({.temperature = 1.0f, .seed = 5}, logits, 20000);
  EXPECT_NEAR(counts.at(0), 2000, 200);
  EXPECT_NEAR(counts.at(1), 6000, 300);
  EXPECT_NEAR(counts.at(2), 12000, 300);
}

TEST(Sampler, TemperatureSharpens) {
  const std::vector<float> logits = {0.0f, std::log(2.0f)};
  const auto counts = Histogram({.temperature = 0.5f, .seed = 6}, logits, 10000);
  EXPECT_NEAR(counts.at(1), 8000, 200);  // 2^2 : 1
}

TEST(Sampler, TopKTopPAndMinPKeepWhatTheySay) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f),
                                     std::log(0.05f)};
  EXPECT_EQ(Histogram({.temperature = 1, .top_k = 2, .seed = 1}, logits, 2000).size(), 2u);
  EXPECT_EQ(Histogram({.temperature = 1, .top_p = 0.79f, .seed = 1}, logits, 2000).size(), 2u);
  EXPECT_EQ(Histogram({.temperature = 1, .top_p = 0.81f, .seed = 1}, logits, 2000).size(), 3u);
  EXPECT_EQ(Histogram({.temperature = 1, .min_p = 0.4f, .seed = 1}, logits, 2000).size(), 2u);
  EXPECT_EQ(Histogram({.temperature = 1, .top_p = 0.01f, .seed = 1}, logits, 2000).size(), 1u);
}

TEST(Sampler, SameSeedSameTokens) {
  const std::vector<float> logits(100, 0.0f);
  Sampler a({.temperature = 1, .seed = 9}), b({.temperature = 1, .seed = 9});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Sample(logits), b.Sample(logits));
}

TEST(Sampler, RefusesParametersOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1}), Error);
  EXPECT_THROW(Sampler({.temperature = NAN}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0}), Error);
  EXPECT_THROW(Sampler({.min_p = 1}), Error);
}

}  // namespace
}  // namespace fireq
