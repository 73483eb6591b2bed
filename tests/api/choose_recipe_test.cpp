// Recipe auto on a small random model: every candidate is tried and the best by KL is taken.
#include "fireq/api/choose_recipe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/base/error.h"
#include "tests/io/io_testing.h"
#include "tests/support/tiny_llama.h"

namespace fireq {
namespace {

class ChooseRecipeTest : public testing::Test {
 protected:
  RecipeChoice Choose(const ModelConfig& config, size_t num_ids, int64_t calibration_tokens) {
    test::WriteHuggingFace(model_.path(), config, test::RandomWeights(config, 11));
    const auto source = ModelSource::Open(model_.path());
    const auto backend = MakeCpuBackend({.num_threads = 2});
    ThreadPool pool(2);
    std::mt19937 rng(1);
    std::vector<int32_t> ids(num_ids);
    for (int32_t& id : ids)
      id = static_cast<int32_t>(rng() % static_cast<uint64_t>(config.vocab_size));
    quant::QuantizeJob job;
    job.source = source.get();
    job.backend = backend.get();
    job.pool = &pool;
    job.target = out_.path() / "model";
    job.calibration_context = 64;
    return ChooseRecipe(job, ids, calibration_tokens, {"weights.sweeps=1"});
  }

  TemporaryDirectory model_, out_;
};

TEST_F(ChooseRecipeTest, TakesTheLeastDivergenceAndLeavesNothingBehind) {
  const RecipeChoice choice = Choose(test::TinyConfig(), 64 * 5, 64 * 3);
  EXPECT_EQ(choice.reasons.at("held_out_tokens"), 128);
  EXPECT_EQ(choice.reasons.at("calibration_tokens"), 192);
  double least = 1e9;
  std::string best;
  for (const auto& candidate : choice.reasons.at("candidates")) {
    if (candidate.contains("refused")) continue;
    const double kl =
        candidate.at("kl_table").get<double>() + candidate.at("kl_exact").get<double>();
    if (kl < least) best = candidate.at("name");
    least = std::min(least, kl);
  }
  EXPECT_EQ(choice.reasons.at("candidates").size(), 4u);
  EXPECT_EQ(choice.reasons.at("chosen"), best);
  EXPECT_EQ(choice.recipe.weights_sweeps, 1);
  EXPECT_TRUE(std::filesystem::is_empty(out_.path()));
}

TEST_F(ChooseRecipeTest, WithoutTextBehindTheLastWindowIsHeldOut) {
  const RecipeChoice choice = Choose(test::TinyConfig(), 64 * 3, 32768);
  EXPECT_EQ(choice.reasons.at("held_out_tokens"), 64);
  EXPECT_EQ(choice.reasons.at("calibration_tokens"), 128);
  EXPECT_THROW(Choose(test::TinyConfig(), 64, 32768), Error);
}

}  // namespace
}  // namespace fireq
