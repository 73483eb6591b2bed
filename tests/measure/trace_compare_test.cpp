#include "fireq/measure/trace_compare.h"

#include <gtest/gtest.h>

#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/model/synthetic.h"

namespace fireq {
namespace {

TEST(CompareTraces, EqualBackendsAreEqualAndAChangedTensorIsFoundInItsPlace) {
  const auto a = MakeCpuBackend({.num_threads = 1});
  const auto b = MakeCpuBackend({.num_threads = 2});
  const Model model = MakeSyntheticModel(*a, SyntheticConfig("tiny"));
  Model changed = MakeSyntheticModel(*b, SyntheticConfig("tiny"));
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 70; ++i) ids.push_back(i * 29 % 512);
  const auto differences = [&] {
    return CompareTraces({a.get(), &model}, {b.get(), &changed}, ids, Products::kTable);
  };
  for (const TensorDifference& d : differences()) EXPECT_EQ(d.relative_error, 0.0) << d.name;

  changed.weights.blocks[1].mlp_norm =
      Tensor::FromVector(DType::kF32, {256}, std::vector<float>(256, 1.5f));
  for (const TensorDifference& d : differences()) {
    const bool behind = d.layer == 1 && (d.name.starts_with("mlp") || d.name == "block_out");
    // E4M3 scales take a factor exactly; what lies behind the SiLU differs.
    EXPECT_EQ(d.relative_error > 1e-3, behind) << "layer " << d.layer << " " << d.name;
  }
}

// What the tolerance of a comparison between devices rests on: weights of a norm off by 1e-5, on
// one backend, tip codes over edges, and a few roundings on that is percents of a tensor.
TEST(CompareTraces, ADifferenceOfAHundredThousandthIsPercentsBehindSomeRoundings) {
  const auto backend = MakeCpuBackend({.num_threads = 2});
  const Model model = MakeSyntheticModel(*backend, SyntheticConfig("tiny"));
  Model off = MakeSyntheticModel(*backend, SyntheticConfig("tiny"));
  std::mt19937 rng(3);
  std::uniform_real_distribution<float> near_one(1 - 1e-5f, 1 + 1e-5f);
  for (BlockWeights& block : off.weights.blocks) {
    std::vector<float> weights(256);
    for (float& w : weights) w = near_one(rng);
    block.attn_norm = Tensor::FromVector(DType::kF32, {256}, weights);
  }
  std::vector<int32_t> ids(200);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % 512);
  for (const TensorDifference& d :
       CompareTraces({backend.get(), &model}, {backend.get(), &off}, ids, Products::kTable)) {
    EXPECT_LT(d.relative_error, 0.12) << "layer " << d.layer << " " << d.name;
    if (d.name == "mlp_hidden") {
      EXPECT_GT(d.relative_error, 0.02) << "layer " << d.layer;
    }
  }
}

}  // namespace
}  // namespace fireq
