// Scores of continuations against the double-precision model that runs each text by itself.
#include "fireq/eval/tasks.h"

#include <gmock/gmock.h>

#include <cmath>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/eval/continuation_scorer.h"
#include "tests/io/io_testing.h"
#include "tests/support/random_ids.h"
#include "tests/support/tiny_llama.h"

namespace fireq::test {
namespace {

class Scoring : public testing::Test {
 protected:
  void SetUp() override {
    WriteHuggingFace(directory_.path(), config_, weights_);
    backend_ = MakeCpuBackend({.num_threads = 2});
    model_ = LoadModel(*backend_, directory_.path());
  }

  std::vector<int32_t> RandomIds(size_t count) {
    return test::RandomIds(rng_, static_cast<int64_t>(count), config_.vocab_size);
  }

  // `shared` tokens in common, then the given numbers of own tokens, of which the last half
  // (rounded up) is scored.
  ContinuationGroup RandomGroup(size_t shared, const std::vector<size_t>& own) {
    const std::vector<int32_t> prefix = RandomIds(shared);
    ContinuationGroup group;
    for (const size_t count : own) {
      Continuation each{prefix, static_cast<int64_t>((count + 1) / 2)};
      const std::vector<int32_t> rest = RandomIds(count);
      each.ids.insert(each.ids.end(), rest.begin(), rest.end());
      group.push_back(each);
    }
    return group;
  }

  // As the model sees no more than the last `max_context` tokens before the last target.
  ContinuationScore Expected(const Continuation& each, int64_t max_context) {
    std::vector<int32_t> ids = each.ids;
    if (static_cast<int64_t>(ids.size()) > max_context + 1)
      ids.erase(ids.begin(), ids.end() - max_context - 1);
    const auto logits = ReferenceLogits(config_, weights_, ids);
    ContinuationScore out;
    for (size_t t = ids.size() - static_cast<size_t>(each.scored); t < ids.size(); ++t) {
      const std::vector<double>& row = logits[t - 1];
      double sum = 0.0;
      for (const double v : row) sum += std::exp(v);
      const auto target = static_cast<size_t>(ids[t]);
      out.log_likelihood += row[target] - std::log(sum);
      out.greedy = out.greedy && std::max_element(row.begin(), row.end()) == row.begin() + ids[t];
    }
    return out;
  }

  void ExpectScores(const std::vector<ContinuationGroup>& groups, int64_t max_context) {
    ContinuationScorer scorer(*backend_, model_, max_context, Products::kServed);
    const auto scores = scorer.Score(groups);
    ASSERT_EQ(scores.size(), groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      ASSERT_EQ(scores[g].size(), groups[g].size());
      for (size_t c = 0; c < groups[g].size(); ++c) {
        const ContinuationScore expected = Expected(groups[g][c], max_context);
        EXPECT_NEAR(scores[g][c].log_likelihood, expected.log_likelihood, 2e-3)
            << "group " << g << ", continuation " << c;
        EXPECT_EQ(scores[g][c].greedy, expected.greedy) << g << ", " << c;
      }
    }
  }

  std::mt19937 rng_{5};
  ModelConfig config_ = TinyConfig();
  TinyWeights weights_ = RandomWeights(config_, 7);
  TemporaryDirectory directory_;
  std::unique_ptr<Backend> backend_;
  Model model_;
};

TEST_F(Scoring, SharedPrefixesOfEveryLengthAroundAPage) {
  std::vector<ContinuationGroup> groups;
  for (const size_t shared : {0u, 1u, 2u, 63u, 64u, 65u, 100u, 128u, 130u})
    groups.push_back(RandomGroup(shared, {5, 2, 70, 9}));
  groups.push_back(RandomGroup(40, {3}));
  ExpectScores(groups, 256);
}

TEST_F(Scoring, BatchesAndStepsThatOverflow) {
  std::vector<ContinuationGroup> groups;
  for (int i = 0; i < 14; ++i)
    groups.push_back(RandomGroup(60 + 5 * static_cast<size_t>(i), {9, 40}));
  groups.push_back(RandomGroup(20, std::vector<size_t>(20, 75)));  // 1480 tokens behind one prefix
  groups.push_back(RandomGroup(3, {4, 4}));
  ExpectScores(groups, 256);
}

TEST_F(Scoring, TextsBeyondTheContextLoseTheirFirstTokens) {
  ExpectScores({RandomGroup(50, {6, 10, 10}), RandomGroup(10, {3, 4}), RandomGroup(0, {90})}, 48);
}

TEST_F(Scoring, GreedyChoicesAreRecognised) {
  Continuation each{RandomIds(30), 2};
  for (int i = 0; i < 2; ++i) {
    const auto last = ReferenceLogits(config_, weights_, each.ids).back();
    each.ids.push_back(
        static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin()));
  }
  Continuation other = each;
  other.ids.back() = (other.ids.back() + 1) % 67;
  ContinuationScorer scorer(*backend_, model_, 64, Products::kServed);
  const auto scores = scorer.Score(std::vector<ContinuationGroup>{{each, other}});
  EXPECT_TRUE(scores[0][0].greedy);
  EXPECT_FALSE(scores[0][1].greedy);
}

TEST_F(Scoring, RefusesWhatCannotBeScored) {
  ContinuationScorer scorer(*backend_, model_, 16, Products::kServed);
  const auto error = [&](const Continuation& each) {
    return ErrorOf([&] { scorer.Score(std::vector<ContinuationGroup>{{each}}); },
                   ErrorCode::kInvalidArgument);
  };
  EXPECT_THAT(error({{1, 2, 67}, 1}), testing::HasSubstr("67"));
  EXPECT_THAT(error({{1, -2, 3}, 1}), testing::HasSubstr("-2"));
  error({{1, 2, 3}, 3});
  error({{1, 2, 3}, 0});
  EXPECT_THAT(error({RandomIds(30), 17}), testing::HasSubstr("context of 16"));
}

// A tokenizer of one token a byte.
std::vector<int32_t> EncodeBytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c) % 67);
  return ids;
}

TEST_F(Scoring, TasksCountWhatTheReferenceCounts) {
  Task task{"made up", TaskScoring::kLikeliest, {}};
  double right = 0, right_norm = 0;
  for (int i = 0; i < 24; ++i) {
    TaskItem item;
    std::vector<double> sums, means;
    for (int c = 0; c < 3; ++c) {
      const std::string context = StrCat("Question ", i, "?"),
                        choice(2 + 3 * ((i + c) % 3), 'a' + c);
      item.candidates.push_back({context, " " + choice, static_cast<int64_t>(choice.size())});
      const auto score = Expected(
          {EncodeBytes(context + " " + choice), static_cast<int64_t>(choice.size()) + 1}, 256);
      sums.push_back(score.log_likelihood);
      means.push_back(score.log_likelihood / static_cast<double>(choice.size()));
    }
    item.gold = i % 4 == 0 ? 0 : (3 - i % 3) % 3;  // mostly the shortest choice
    right += std::max_element(sums.begin(), sums.end()) - sums.begin() == item.gold;
    right_norm += std::max_element(means.begin(), means.end()) - means.begin() == item.gold;
    task.items.push_back(item);
  }
  int64_t last_done = 0;
  TaskOptions options;
  options.max_context = 256;
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 24);
    EXPECT_GT(done, last_done);
    last_done = done;
  };
  const TaskResult result = EvaluateTask(*backend_, model_, task, EncodeBytes, options);
  EXPECT_EQ(last_done, 24);
  EXPECT_EQ(result.items, 24);
  EXPECT_DOUBLE_EQ(result.acc, right / 24);
  EXPECT_DOUBLE_EQ(result.acc_norm, right_norm / 24);
  EXPECT_NE(right, right_norm);  // or the two would not be told apart here
  EXPECT_NEAR(result.acc_stderr, std::sqrt(result.acc * (1 - result.acc) / 23), 1e-12);
}

TEST_F(Scoring, AmongEqualsTheFirstCandidateCounts) {
  for (const int64_t gold : {0, 1}) {
    TaskItem item{{{"Question?", " same", 4}, {"Question?", " same", 4}}, gold};
    const Task task{"made up", TaskScoring::kLikeliest, {item}};
    const TaskResult result = EvaluateTask(*backend_, model_, task, EncodeBytes, {});
    EXPECT_EQ(result.acc, gold == 0 ? 1.0 : 0.0);
    EXPECT_EQ(result.acc_norm, gold == 0 ? 1.0 : 0.0);
  }
}

TEST_F(Scoring, TheOrderOfItemsAndOfTasksDoesNotMatter) {
  std::vector<ContinuationGroup> groups;
  for (int i = 0; i < 12; ++i)
    groups.push_back(RandomGroup(30 + 7 * static_cast<size_t>(i), {4, 8}));
  ContinuationScorer scorer(*backend_, model_, 256, Products::kServed);
  const auto all = scorer.Score(groups);
  for (size_t g = groups.size(); g-- > 0;) {
    const auto alone = scorer.Score(std::span(&groups[g], 1));
    for (size_t c = 0; c < 2; ++c)
      EXPECT_NEAR(alone[0][c].log_likelihood, all[g][c].log_likelihood, 1e-4);
  }
}

}  // namespace
}  // namespace fireq::test
