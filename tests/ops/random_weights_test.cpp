#include "fireq/ops/random_weights.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fireq/formats/bf16.h"
#include "fireq/formats/random_weight.h"

namespace fireq {
namespace {

double Variance(const WeightI4& w) {
  const WeightI4Layout layout{w.n, w.k};
  double sum = 0;
  for (int64_t row = 0; row < w.n; ++row) {
    const uint8_t* codes = w.codes.as<uint8_t>() + row * layout.code_bytes_per_row();
    for (int64_t k = 0; k < w.k; ++k) {
      const int64_t group = row * layout.groups() + k / kGroup;
      const double value = ExactProduct(CodeAt(codes, k), w.zero.as<uint8_t>()[group],
                                        E4M3ToFloat(w.scale.as<e4m3_t>()[group])) /
                           w.t;
      sum += value * value;
    }
  }
  return sum / static_cast<double>(w.n * w.k);
}

TEST(RandomWeights, RowsKeepTheVarianceOfTheirInputs) {
  for (const int64_t k : {64, 576, 4096, 14336}) {
    const LinearSpec spec = MakeRandomLinear({.part_rows = {48, 16}, .k = k, .seed = 7});
    for (const LinearPart& part : spec.parts) {
      const double gain = std::sqrt(static_cast<double>(k) * Variance(part.i4));
      EXPECT_GT(gain, 0.66) << "K " << k;
      EXPECT_LT(gain, 1.7) << "K " << k;
    }
  }
}

TEST(RandomWeights, RowsAreNumberedThroughAllParts) {
  const LinearSpec parts = MakeRandomLinear({.part_rows = {32, 32}, .k = 200, .seed = 3});
  const LinearSpec whole = MakeRandomLinear({.part_rows = {64}, .k = 200, .seed = 3});
  const Tensor second = whole.parts[0].i4.codes.Rows(32, 64);
  EXPECT_EQ(0, std::memcmp(second.data(), parts.parts[1].i4.codes.data(),
                           static_cast<size_t>(second.size_bytes())));
  const LinearSpec other = MakeRandomLinear({.part_rows = {64}, .k = 200, .seed = 4});
  EXPECT_NE(0, std::memcmp(other.parts[0].i4.codes.data(), whole.parts[0].i4.codes.data(), 64));
}

TEST(RandomWeights, Bf16HasItsSpread) {
  const Tensor tensor = MakeRandomBf16({100, 400}, 0.25f, 5);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    const double value = Bf16ToFloat(tensor.as<bf16_t>()[i]);
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / 40000, 0.0, 0.01);
  EXPECT_NEAR(std::sqrt(squares / 40000), 0.25, 0.005);
}

TEST(RandomWeights, RefusesWhatIsNoWeight) {
  EXPECT_THROW(MakeRandomLinear({.part_rows = {}, .k = 64}), Error);
  EXPECT_THROW(MakeRandomLinear({.part_rows = {0}, .k = 64}), Error);
  EXPECT_THROW(MakeRandomLinear({.part_rows = {8, 8}, .k = 64, .form = WeightForm::kBf16}), Error);
}

}  // namespace
}  // namespace fireq
