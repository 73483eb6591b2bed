#include "fireq/measure/trace_compare.h"

#include <gtest/gtest.h>

#include <cmath>
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
    // E4M3 scales take a factor exactly; what lies behind it gets the same inputs on both.
    const bool there = d.layer == 1 && d.name == "mlp_input";
    EXPECT_NEAR(d.relative_error, there ? 0.5 : 0.0, 2e-2) << "layer " << d.layer << " " << d.name;
    EXPECT_NEAR(d.gain, there ? 0.5 : 0.0, 2e-2) << "layer " << d.layer << " " << d.name;
    EXPECT_EQ(d.changed > 0.9, there) << "layer " << d.layer << " " << d.name;
  }
}

// Roundings that fall either way show as an error without a gain.
TEST(CompareTraces, NoiseHasNoGain) {
  const auto backend = MakeCpuBackend({.num_threads = 2});
  const Model model = MakeSyntheticModel(*backend, SyntheticConfig("tiny"));
  Model off = MakeSyntheticModel(*backend, SyntheticConfig("tiny"));
  std::mt19937 rng(3);
  std::uniform_real_distribution<float> near_one(1 - 1e-2f, 1 + 1e-2f);
  for (BlockWeights& block : off.weights.blocks) {
    std::vector<float> weights(256);
    for (float& w : weights) w = near_one(rng);
    block.attn_norm = Tensor::FromVector(DType::kF32, {256}, weights);
  }
  std::vector<int32_t> ids(200);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % 512);
  for (const TensorDifference& d :
       CompareTraces({backend.get(), &model}, {backend.get(), &off}, ids, Products::kTable)) {
    if (d.name != "attn_input") {
      EXPECT_EQ(d.relative_error, 0.0) << "layer " << d.layer << " " << d.name;
      continue;
    }
    EXPECT_GT(d.relative_error, 5e-3) << "layer " << d.layer;
    EXPECT_LT(std::abs(d.gain), 2e-3) << "layer " << d.layer;
  }
}

}  // namespace
}  // namespace fireq
