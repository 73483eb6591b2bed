#include "fireq/ops/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "fireq/base/error.h"
#include "fireq/base/philox.h"

namespace fireq {
namespace {

std::map<int32_t, int> Histogram(const SamplingParams& params, const std::vector<float>& logits,
                                 int draws) {
  Sampler sampler;
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[sampler.Choose(params, logits, {}, i).id];
  return counts;
}

int32_t Greedy(const std::vector<float>& logits, const SamplingParams& params = {},
               const std::vector<int32_t>& history = {}) {
  return Sampler().Choose(params, logits, history, 0).id;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargestAndSkipsNan) {
  EXPECT_EQ(Greedy({0.0f, 3.0f, NAN, 3.0f}), 1);
  EXPECT_EQ(Greedy({NAN, NAN}), -1);
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

TEST(Sampler, WhatIsKeptSharesAllOfTheProbability) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  for (const SamplingParams& params : {SamplingParams{.temperature = 1, .top_p = 0.79f, .seed = 3},
                                       SamplingParams{.temperature = 1, .min_p = 0.5f, .seed = 3},
                                       SamplingParams{.temperature = 1, .top_k = 2, .seed = 3}}) {
    const auto counts = Histogram(params, logits, 8000);
    EXPECT_EQ(counts.size(), 2u);
    EXPECT_NEAR(counts.at(0), 5000, 200);  // 5 : 3, not what is left of 0.5 and 0.5
  }
}

TEST(Sampler, MinPIsOfTheProbabilitiesThatTemperatureLeaves) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f),
                                     std::log(0.05f)};
  // At 2 they are 1, 0.77, 0.55 and 0.32 of the likeliest; at 0.5 1, 0.36, 0.09 and 0.01.
  EXPECT_EQ(Histogram({.temperature = 2, .min_p = 0.4f, .seed = 1}, logits, 2000).size(), 3u);
  EXPECT_EQ(Histogram({.temperature = 0.5f, .min_p = 0.4f, .seed = 1}, logits, 2000).size(), 1u);
  // Below, not at: exactly half of the likeliest stays.
  EXPECT_EQ(Histogram({.temperature = 1, .min_p = 0.5f}, {0.0f, std::log(0.5f)}, 2000).size(), 2u);
}

TEST(Sampler, AmongEqualsTopKKeepsTheFirst) {
  const auto counts = Histogram({.temperature = 1, .top_k = 2}, {0.0f, 1.0f, 1.0f, 1.0f}, 500);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.contains(1) && counts.contains(2));
}

TEST(Sampler, SeedAndDrawFixTheToken) {
  const std::vector<float> logits(100, 0.0f);
  const SamplingParams params{.temperature = 1, .seed = 9};
  Sampler a, b;
  int differ = 0;
  for (int i = 99; i >= 0; --i) {
    const int32_t id = a.Choose(params, logits, {}, i).id;
    EXPECT_EQ(id, b.Choose(params, logits, {}, i).id);
    differ += id != b.Choose({.temperature = 1, .seed = 10}, logits, {}, i).id;
  }
  EXPECT_GT(differ, 80);
}

TEST(Sampler, RepetitionPenaltyActsOnceOnWhatWasSeen) {
  const SamplingParams params{.repetition_penalty = 2.0f};
  EXPECT_EQ(Greedy({3.0f, 2.0f}, params), 0);
  EXPECT_EQ(Greedy({3.0f, 2.0f}, params, {0}), 1);
  EXPECT_EQ(Greedy({5.0f, 2.0f}, params, {0, 0, 0}), 0);  // 2.5, not 0.6
  EXPECT_EQ(Greedy({-1.0f, -1.5f}, params, {0}), 1);      // -2: negative logits are multiplied
}

TEST(Sampler, LogprobsAreOfTheModelsOwnSoftmax) {
  const std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.3f)};
  const SamplingParams params{
      .temperature = 5.0f, .top_k = 1, .repetition_penalty = 100.0f, .num_logprobs = 2};
  const TokenChoice choice = Sampler().Choose(params, logits, std::vector<int32_t>{1}, 0);
  EXPECT_EQ(choice.id, 2);  // log-probabilities are negative: the penalty pushes 1 down
  EXPECT_NEAR(choice.logprob, std::log(0.3f), 1e-6);
  ASSERT_EQ(choice.top.size(), 2u);
  EXPECT_EQ(choice.top[0].id, 1);
  EXPECT_NEAR(choice.top[0].logprob, std::log(0.5f), 1e-6);
  EXPECT_EQ(choice.top[1].id, 2);
}

TEST(Sampler, OnlyPlainGreedyRowsChooseTheLargest) {
  EXPECT_TRUE(ChoosesTheLargest({}));
  EXPECT_TRUE(ChoosesTheLargest({.top_k = 3, .top_p = 0.5f, .min_p = 0.1f, .seed = 7}));
  EXPECT_FALSE(ChoosesTheLargest({.temperature = 0.1f}));
  EXPECT_FALSE(ChoosesTheLargest({.repetition_penalty = 0.9f}));
  EXPECT_FALSE(ChoosesTheLargest({.num_logprobs = 0}));
}

TEST(Philox, MatchesTheReferenceImplementationsKnownAnswers) {
  const PhiloxBlock zeros = Philox(0, {{0, 0, 0, 0}});
  EXPECT_THAT(zeros.word, testing::ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  const PhiloxBlock pi =
      Philox(0x299f31d0a4093822ull, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}});
  EXPECT_THAT(pi.word, testing::ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Philox, AUniformIsOfTheFirstWordsOfItsDrawAndSeed) {
  for (const uint64_t draw : {uint64_t{0}, uint64_t{7}, uint64_t{3} << 32, (uint64_t{3} << 32) + 7})
    for (const uint64_t seed : {uint64_t{0}, uint64_t{5} << 40}) {
      const PhiloxBlock block =
          Philox(seed, {{static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32), 0, 0}});
      const double expected = std::ldexp(block.word[0], -32) + std::ldexp(block.word[1] >> 11, -53);
      EXPECT_EQ(PhiloxUniform(seed, draw), expected);
      EXPECT_LT(expected, 1.0);
    }
}

TEST(Sampler, RefusesParametersOutOfRange) {
  EXPECT_THROW(Validate({.temperature = -1}), Error);
  EXPECT_THROW(Validate({.temperature = NAN}), Error);
  EXPECT_THROW(Validate({.top_k = -1}), Error);
  EXPECT_THROW(Validate({.top_p = 0}), Error);
  EXPECT_THROW(Validate({.min_p = 1}), Error);
  EXPECT_THROW(Validate({.repetition_penalty = 0}), Error);
  EXPECT_THROW(Validate({.num_logprobs = -2}), Error);
  EXPECT_THROW(Validate({.num_logprobs = kMaxLogprobs + 1}), Error);
  EXPECT_THROW(Validate({.temperature = INFINITY}), Error);
  EXPECT_THROW(Validate({.top_p = 1.01f}), Error);
  EXPECT_THROW(Validate({.top_p = NAN}), Error);
  EXPECT_THROW(Validate({.min_p = -0.1f}), Error);
  EXPECT_THROW(Validate({.repetition_penalty = INFINITY}), Error);
  Validate(SamplingParams{});
}

}  // namespace
}  // namespace fireq
