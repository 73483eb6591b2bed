// Perplexity and KL against sums over the double-precision model's logits.
#include "fireq/eval/perplexity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "tests/io/io_testing.h"
#include "tests/support/random_ids.h"
#include "tests/support/tiny_llama.h"

namespace fireq::test {
namespace {

constexpr int64_t kContext = 40, kWindows = 2;

std::vector<double> LogProbabilities(const std::vector<double>& logits) {
  double sum = 0.0;
  for (const double v : logits) sum += std::exp(v);
  std::vector<double> out;
  for (const double v : logits) out.push_back(v - std::log(sum));
  return out;
}

// Of the mean of independent values.
double StandardError(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0.0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / (n - 1.0)) / std::sqrt(n);
}

class Perplexity : public testing::Test {
 protected:
  void SetUp() override {
    WriteHuggingFace(first_.path(), config_, first_weights_);
    WriteHuggingFace(second_.path(), config_, second_weights_);
    std::mt19937 rng(3);
    ids_ = RandomIds(rng, kContext * kWindows + 7, config_.vocab_size);  // a short window behind
    options_.context = kContext;
    options_.num_threads = 2;
  }

  // Rows of log-probabilities of both windows, one below the other.
  std::vector<std::vector<double>> Expected(const TinyWeights& weights) const {
    std::vector<std::vector<double>> rows;
    for (int64_t w = 0; w < kWindows; ++w) {
      const auto begin = ids_.begin() + w * kContext;
      for (const auto& row : ReferenceLogits(config_, weights, {begin, begin + kContext}))
        rows.push_back(LogProbabilities(row));
    }
    return rows;
  }

  std::vector<double> Losses(const std::vector<std::vector<double>>& rows) const {
    std::vector<double> losses;
    for (size_t i = 0; i < rows.size(); ++i)
      if ((i + 1) % kContext != 0) losses.push_back(-rows[i][static_cast<size_t>(ids_[i + 1])]);
    return losses;
  }

  double ExpectedPerplexity(const std::vector<std::vector<double>>& rows) const {
    const std::vector<double> losses = Losses(rows);
    return std::exp(std::accumulate(losses.begin(), losses.end(), 0.0) /
                    (kWindows * (kContext - 1)));
  }

  const ModelConfig config_ = TinyConfig();
  const TinyWeights first_weights_ = RandomWeights(config_, 5);
  const TinyWeights second_weights_ = RandomWeights(config_, 6);
  const TemporaryDirectory first_, second_;
  const std::unique_ptr<Backend> backend_ = MakeCpuBackend({.num_threads = 2});
  std::vector<int32_t> ids_;
  PerplexityOptions options_;
};

TEST_F(Perplexity, AgreesWithTheReferenceModelsSums) {
  const Model model = LoadModel(*backend_, first_.path());
  const Model reference = LoadModel(*backend_, second_.path());
  const PerplexityResult result =
      EvaluatePerplexity({backend_.get(), &model}, ids_, options_, {backend_.get(), &reference});
  const auto q = Expected(first_weights_), p = Expected(second_weights_);

  std::vector<double> kl, agree;
  for (size_t i = 0; i < q.size(); ++i) {
    double sum = 0.0;
    for (size_t v = 0; v < q[i].size(); ++v) sum += std::exp(p[i][v]) * (p[i][v] - q[i][v]);
    kl.push_back(sum);
    agree.push_back(std::max_element(p[i].begin(), p[i].end()) - p[i].begin() ==
                            std::max_element(q[i].begin(), q[i].end()) - q[i].begin()
                        ? 1.0
                        : 0.0);
  }
  const double count = static_cast<double>(kl.size());
  EXPECT_EQ(result.tokens, kContext * kWindows);
  EXPECT_NEAR(result.perplexity, ExpectedPerplexity(q), 1e-3);
  ASSERT_TRUE(result.distance.has_value());
  const PerplexityResult::Distance& distance = *result.distance;
  EXPECT_NEAR(distance.kl_mean, std::accumulate(kl.begin(), kl.end(), 0.0) / count, 1e-4);
  EXPECT_NEAR(distance.top1_agreement, std::accumulate(agree.begin(), agree.end(), 0.0) / count,
              1e-12);
  EXPECT_NEAR(distance.reference_perplexity, ExpectedPerplexity(p), 1e-3);

  EXPECT_NEAR(result.perplexity_stderr, ExpectedPerplexity(q) * StandardError(Losses(q)), 1e-4);
  EXPECT_NEAR(distance.reference_perplexity_stderr,
              ExpectedPerplexity(p) * StandardError(Losses(p)), 1e-4);
  EXPECT_NEAR(distance.kl_stderr, StandardError(kl), 1e-5);
  EXPECT_NEAR(distance.top1_stderr, StandardError(agree), 1e-12);
  std::vector<double> sorted = kl;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_NEAR(distance.kl_p99, sorted[78], 1e-4);  // of 0 to 79

  // 40 positions in parts of three; the last has one position a window.
  ASSERT_EQ(distance.kl_along_window.size(), 14u);
  EXPECT_NEAR(distance.kl_along_window[0], (kl[0] + kl[1] + kl[2] + kl[40] + kl[41] + kl[42]) / 6,
              1e-4);
  EXPECT_NEAR(distance.kl_along_window[13], (kl[39] + kl[79]) / 2, 1e-4);
}

TEST_F(Perplexity, BlocksReadOneByOneGiveTheSameBits) {
  const Model whole = LoadModel(*backend_, first_.path());
  const Model opened = OpenModel(*backend_, first_.path());
  EXPECT_TRUE(opened.weights.blocks.empty());
  const auto run = [&](const Model& model) {
    return EvaluatePerplexity({backend_.get(), &model}, ids_, options_).perplexity;
  };
  EXPECT_EQ(run(opened), run(whole));
}

TEST_F(Perplexity, SeveralProductsAreSeveralRuns) {
  const Model model = LoadModel(*backend_, first_.path());
  constexpr std::array kBoth = {Products::kTable, Products::kExact};
  const auto results = EvaluatePerplexity({backend_.get(), &model}, ids_, options_, {}, kBoth);
  ASSERT_EQ(results.size(), 2u);
  options_.products = Products::kExact;
  EXPECT_EQ(results[1].perplexity,
            EvaluatePerplexity({backend_.get(), &model}, ids_, options_).perplexity);
}

TEST_F(Perplexity, RefusesLessThanOneWindow) {
  const Model model = LoadModel(*backend_, first_.path());
  ids_.resize(kContext - 1);
  EXPECT_THROW(EvaluatePerplexity({backend_.get(), &model}, ids_, options_), Error);
}

}  // namespace
}  // namespace fireq::test
