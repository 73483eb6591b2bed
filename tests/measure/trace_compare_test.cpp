#include "fireq/measure/trace_compare.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace fireq
