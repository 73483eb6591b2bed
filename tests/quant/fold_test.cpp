// Every fold and rotation leaves the float block's function unchanged, and does what it is for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "fireq/base/error.h"
#include "fireq/quant/fold_cas.h"
#include "fireq/quant/fold_rope.h"
#include "fireq/quant/fold_rotation.h"
#include "tests/quant/reference_block.h"

namespace fireq::quant {
namespace {

using testing_support::Draw;
using testing_support::RandomBlock;
using testing_support::ReferenceBlock;
using testing_support::Rows;
using testing_support::SmallConfig;

constexpr double kTolerance = 1e-9;

Rows RandomInput(const ModelConfig& config, int tokens) {
  Draw draw(77);
  Rows x;
  for (int t = 0; t < tokens; ++t) x.push_back(draw.Vector(config.hidden));
  return x;
}

double LargestDifference(const Rows& a, const Rows& b) {
  double worst = 0.0;
  for (size_t t = 0; t < a.size(); ++t)
    for (size_t i = 0; i < a[t].size(); ++i) worst = std::max(worst, std::fabs(a[t][i] - b[t][i]));
  return worst;
}

Rows Output(const Block<double>& block, const ModelConfig& config, const Rows& x) {
  return ReferenceBlock(block, config).Run(x);
}

KeyRanges MeasureKeys(const Block<double>& block, const ModelConfig& config, const Rows& x) {
  ReferenceBlock reference(block, config);
  reference.Run(x);
  const int64_t dh = config.head_dim, half = dh / 2;
  KeyRanges ranges;
  ranges.pair_norm.assign(static_cast<size_t>(config.num_kv_heads * half), 0.0f);
  ranges.channel_max.assign(static_cast<size_t>(config.kv_rows()), 0.0f);
  ranges.channel_mean.assign(ranges.channel_max.size(), 0.0);
  ranges.key_energy.assign(ranges.pair_norm.size(), 0.0);
  ranges.query_energy = ranges.key_energy;
  const int64_t group = config.num_heads / config.num_kv_heads;
  for (const auto& query : reference.queries) {
    for (int64_t i = 0; i < config.q_rows(); ++i)
      ranges.query_energy[static_cast<size_t>(i / dh / group * half + i % half)] +=
          query[static_cast<size_t>(i)] * query[static_cast<size_t>(i)];
  }
  for (const auto& key : reference.keys) {
    for (int64_t i = 0; i < config.kv_rows(); ++i) {
      const size_t at = static_cast<size_t>(i);
      ranges.channel_max[at] =
          std::max(ranges.channel_max[at], static_cast<float>(std::fabs(key.after_rope[at])));
      ranges.channel_mean[at] += key.after_rope[at] / static_cast<double>(reference.keys.size());
      ranges.key_energy[static_cast<size_t>(i / dh * half + i % half)] +=
          key.before_rope[at] * key.before_rope[at];
      if (i % dh >= half) continue;
      float& norm = ranges.pair_norm[static_cast<size_t>(i / dh * half + i % dh)];
      norm = std::max(
          norm, static_cast<float>(std::hypot(key.before_rope[at],
                                              key.before_rope[at + static_cast<size_t>(half)])));
    }
  }
  return ranges;
}

struct Variant {
  bool biases, qk_norm;
};
class Folds : public testing::TestWithParam<Variant> {
 protected:
  const ModelConfig config_ = SmallConfig(GetParam().biases, GetParam().qk_norm);
  const Block<double> block_ = RandomBlock(config_, 3);
  const Rows input_ = RandomInput(config_, 9);
  const Rows expected_ = Output(block_, config_, input_);
};

TEST_P(Folds, CasKeepsTheFunctionAndEvensColumns) {
  for (const CasKind kind : {CasKind::kMean, CasKind::kAbsMax}) {
    for (const char* lambdas : {"1", "2", "3", "1,2,3"}) {
      Recipe recipe;
      recipe.cas = kind;
      recipe.cas_lambdas = lambdas;
      Block<double> folded = block_;
      FoldCas(folded, config_, recipe);
      EXPECT_LT(LargestDifference(Output(folded, config_, input_), expected_), kTolerance)
          << lambdas;
      EXPECT_NE(folded.o.weight.data == block_.o.weight.data, recipe.CasLambda(1)) << lambdas;
      EXPECT_NE(folded.down.weight.data == block_.down.weight.data, recipe.CasLambda(3));
    }
  }
}

TEST_P(Folds, CasMeanMakesColumnMeansEqual) {
  Recipe recipe;
  recipe.cas = CasKind::kMean;
  Block<double> folded = block_;
  FoldCas(folded, config_, recipe);
  std::vector<double> means(static_cast<size_t>(config_.ffn), 0.0);
  double log_lambda = 0.0;
  for (int64_t k = 0; k < config_.ffn; ++k) {
    for (int64_t n = 0; n < config_.hidden; ++n)
      means[static_cast<size_t>(k)] += std::fabs(folded.down.weight.at(n, k));
    log_lambda += std::log(folded.down.weight.at(0, k) / block_.down.weight.at(0, k));
  }
  for (const double mean : means) EXPECT_NEAR(mean / means[0], 1.0, 1e-12);
  EXPECT_NEAR(log_lambda, 0.0, 1e-9);  // geometric mean 1
}

TEST_P(Folds, RpnAndCrsKeepTheFunctionAndBoundTheKeys) {
  const KeyRanges ranges = MeasureKeys(block_, config_, input_);
  for (const auto& [rpn, crs] : {std::pair{true, false}, {false, true}, {true, true}}) {
    Recipe recipe;
    recipe.rpn = rpn;
    recipe.crs = crs;
    recipe.crs_top_k = 2;
    Block<double> folded = block_;
    const std::vector<float> factors = FoldRope(folded, config_, recipe, ranges);
    EXPECT_LT(LargestDifference(Output(folded, config_, input_), expected_), kTolerance);
    const KeyRanges after = MeasureKeys(folded, config_, input_);
    for (size_t c = 0; c < factors.size(); ++c)
      EXPECT_NEAR(after.channel_max[c] / (ranges.channel_max[c] * factors[c]), 1.0, 1e-5);
    if (rpn && !crs && !config_.qk_norm) {
      for (const float norm : after.pair_norm) EXPECT_NEAR(norm, recipe.rpn_alpha, 1e-5);
    }
    if (crs) {
      int touched = 0;
      for (size_t c = 0; c < after.channel_max.size(); ++c) {
        if (folded.crs_k[c] == 1.0) continue;
        ++touched;
        EXPECT_NEAR(after.channel_max[c], recipe.crs_beta, 1e-5);
        EXPECT_NEAR(folded.crs_k[c] * folded.crs_q[c], 1.0, 1e-12);
      }
      EXPECT_GE(touched, 2 * config_.num_kv_heads);
      EXPECT_LE(touched, 4 * config_.num_kv_heads);
    }
  }
}

TEST_P(Folds, CentringKeepsTheFunctionAndLeavesNoMean) {
  const KeyRanges ranges = MeasureKeys(block_, config_, input_);
  for (const bool scaled : {false, true}) {
    Recipe recipe;
    recipe.shift_k = 1.0;
    recipe.rpn = recipe.crs = scaled;
    recipe.crs_top_k = 2;
    Block<double> folded = block_;
    FoldRope(folded, config_, recipe, ranges);
    EXPECT_LT(LargestDifference(Output(folded, config_, input_), expected_), kTolerance);
    const KeyRanges after = MeasureKeys(folded, config_, input_);
    for (size_t c = 0; c < after.channel_mean.size(); ++c)
      EXPECT_NEAR(after.channel_mean[c], 0.0, 1e-5 * after.channel_max[c]);
  }
}

TEST_P(Folds, BalancingKeepsTheFunctionAndLowersTheProductOfNorms) {
  const KeyRanges ranges = MeasureKeys(block_, config_, input_);
  Recipe recipe;
  recipe.rpn = recipe.crs = false;
  recipe.balance_qk = true;
  Block<double> folded = block_;
  FoldRope(folded, config_, recipe, ranges);
  EXPECT_LT(LargestDifference(Output(folded, config_, input_), expected_), kTolerance);
  const KeyRanges after = MeasureKeys(folded, config_, input_);
  double k_before = 0.0, q_before = 0.0, k_after = 0.0, q_after = 0.0, least = 0.0;
  for (size_t i = 0; i < after.key_energy.size(); ++i) {
    k_before += ranges.key_energy[i];
    q_before += ranges.query_energy[i];
    k_after += after.key_energy[i];
    q_after += after.query_energy[i];
    least += std::sqrt(ranges.key_energy[i] * ranges.query_energy[i]);
    if (config_.qk_norm) continue;
    EXPECT_NEAR(after.key_energy[i] / after.query_energy[i], 1.0, 1e-9);
  }
  EXPECT_LT(k_after * q_after, k_before * q_before);
  // Cauchy-Schwarz: no factors do better.
  if (config_.qk_norm) return;
  EXPECT_NEAR(k_after * q_after / (least * least), 1.0, 1e-9);
}

TEST_P(Folds, RotationsKeepTheFunction) {
  ThreadPool pool(2);
  const Rotation residual(config_.hidden, 5), heads(config_.head_dim, 6);
  Block<double> folded = block_;
  RotateV(folded, config_, heads, pool);
  EXPECT_LT(LargestDifference(Output(folded, config_, input_), expected_), kTolerance);

  FoldNorms(folded);
  EXPECT_LT(LargestDifference(Output(folded, config_, input_), expected_), kTolerance);
  RotateResidual(folded, residual, pool);
  Rows rotated_input = input_, rotated_expected = expected_;
  for (auto* rows : {&rotated_input, &rotated_expected})
    for (std::vector<double>& row : *rows) residual.ApplyToRow(row.data());
  EXPECT_LT(LargestDifference(Output(folded, config_, rotated_input), rotated_expected),
            kTolerance);
}

TEST_P(Folds, AllInOrderKeepTheFunction) {
  ThreadPool pool(2);
  Recipe recipe = BuiltinRecipe("fireq");
  const Rotation residual(config_.hidden, 8), heads(config_.head_dim, 9);
  Block<double> folded = block_;
  FoldCas(folded, config_, recipe);
  FoldRope(folded, config_, recipe, MeasureKeys(block_, config_, input_));
  RotateV(folded, config_, heads, pool);
  FoldNorms(folded);
  RotateResidual(folded, residual, pool);
  Rows x = input_, expected = expected_;
  for (auto* rows : {&x, &expected})
    for (std::vector<double>& row : *rows) residual.ApplyToRow(row.data());
  EXPECT_LT(LargestDifference(Output(folded, config_, x), expected), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Variants, Folds,
                         testing::Values(Variant{false, false}, Variant{true, false},
                                         Variant{false, true}));

TEST(FoldRope, DeadChannelKeepsItsFactor) {
  const ModelConfig config = SmallConfig(false, false);
  Block<double> block = RandomBlock(config, 4);
  KeyRanges ranges;
  ranges.pair_norm.assign(8, 0.0f);
  ranges.channel_max.assign(16, 0.0f);
  ranges.key_energy = ranges.query_energy = std::vector<double>(8, 0.0);
  const std::vector<double> k_before = block.k.weight.data;
  Recipe recipe;
  recipe.rpn = recipe.crs = true;
  FoldRope(block, config, recipe, ranges);
  EXPECT_EQ(block.k.weight.data, k_before);
  ASSERT_EQ(block.crs_k.size(), 16u);
  for (const double factor : block.crs_k) EXPECT_EQ(factor, 1.0);
}

TEST(FoldRope, GroupsOfTheWrongSizeAreRefused) {
  const ModelConfig config = SmallConfig(false, false);
  Block<double> block = RandomBlock(config, 4);
  EXPECT_THROW(FoldRope(block, config, Recipe{}, KeyRanges{}), Error);
}

TEST(Rotation, IsOrthogonalForEverySize) {
  for (const int64_t n : {1, 2, 3, 8, 9, 24, 64, 96, 576}) {
    const Rotation rotation(n, 42);
    Matrix<double> r(n, n);
    for (int64_t i = 0; i < n; ++i) {
      r.at(i, i) = 1.0;
      rotation.ApplyToRow(r.row(i));
    }
    double worst = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double dot = 0.0;
        for (int64_t k = 0; k < n; ++k) dot += r.at(i, k) * r.at(j, k);
        worst = std::max(worst, std::fabs(dot - (i == j ? 1.0 : 0.0)));
      }
    }
    EXPECT_LT(worst, 1e-13) << n;
    // No channel survives alone: that is what the rotation is for.
    if (n >= 24) {
      EXPECT_LT(*std::max_element(r.data.begin(), r.data.end()), 0.8) << n;
    }
  }
  EXPECT_THROW(Rotation(5003, 1), Error);
}

// The residual streams of Qwen2.5-0.5B, Qwen2.5-7B and Llama-2-13B.
TEST(Rotation, KeepsProductsOfVectorsAtTheWidthsOfModels) {
  for (const int64_t n : {896, 3584, 5120}) {
    const Rotation rotation(n, 42);
    std::mt19937 engine(3);
    std::normal_distribution<double> normal;
    Matrix<double> x(5, n);
    for (double& value : x.data) value = normal(engine);
    x.at(4, 7) = 1e3;  // one channel above all
    Matrix<double> turned = x;
    for (int64_t i = 0; i < x.rows; ++i) rotation.ApplyToRow(turned.row(i));
    for (int64_t i = 0; i < x.rows; ++i)
      for (int64_t j = 0; j <= i; ++j)
        EXPECT_NEAR(std::inner_product(turned.row(i), turned.row(i) + n, turned.row(j), 0.0),
                    std::inner_product(x.row(i), x.row(i) + n, x.row(j), 0.0), 1e-7)
            << n;
    const auto [least, most] = std::minmax_element(turned.row(4), turned.row(4) + n);
    EXPECT_LT(std::max(*most, -*least), 250.0) << n;
  }
}

}  // namespace
}  // namespace fireq::quant
