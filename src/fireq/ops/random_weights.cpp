#include "fireq/ops/random_weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "fireq/base/math.h"
#include "fireq/formats/random_weight.h"
#include "fireq/ops/validate.h"

namespace fireq {
namespace {

// Rows [begin, begin + n) of the fused weight.
WeightI4 RandomRows(const RandomLinearSpec& spec, int64_t begin, int64_t n) {
  const WeightI4Layout layout{n, spec.k};
  WeightI4 out{Tensor::Zeros(DType::kU8, {n, layout.code_bytes_per_row()}),
               Tensor::Empty(DType::kE4M3, {n, layout.groups()}),
               Tensor::Empty(DType::kU8, {n, layout.groups()}),
               RandomWeightT(spec.k),
               n,
               spec.k};
  for (int64_t row = 0; row < n; ++row) {
    uint8_t* codes = out.codes.as<uint8_t>() + row * layout.code_bytes_per_row();
    for (int64_t first = 0; first < spec.k; first += kRandomCodes) {
      const PhiloxBlock draw = RandomCodes(spec.seed, begin + row, first / kRandomCodes);
      const int64_t count = std::min<int64_t>(kRandomCodes, spec.k - first);
      for (int i = 0; i < count; ++i) {
        const int64_t column = first + i;
        codes[column / 2] =
            static_cast<uint8_t>(codes[column / 2] | RandomCode(draw, i) << (column % 2 * 4));
      }
    }
    for (int64_t g = 0; g < layout.groups(); ++g) {
      const RandomGroup group = RandomGroupOf(spec.seed, begin + row, g);
      out.scale.as<e4m3_t>()[row * layout.groups() + g] = group.scale;
      out.zero.as<uint8_t>()[row * layout.groups() + g] = group.zero;
    }
  }
  return out;
}

}  // namespace

float RandomWeightSpread(int64_t k) { return 1.0f / std::sqrt(static_cast<float>(k)); }

LinearSpec MakeRandomLinear(const RandomLinearSpec& spec) {
  Validate(spec);
  LinearSpec out;
  out.gate_up = spec.gate_up;
  if (spec.form == WeightForm::kBf16) {
    const Shape shape = {spec.part_rows[0], spec.k};
    out.parts.push_back(
        {.name = "random", .weight = MakeRandomBf16(shape, RandomWeightSpread(spec.k), spec.seed)});
    return out;
  }
  int64_t begin = 0;
  for (const int64_t n : spec.part_rows) {
    out.parts.push_back({.name = "random", .i4 = RandomRows(spec, begin, n)});
    begin += n;
  }
  return out;
}

Tensor MakeRandomBf16(Shape shape, float spread, uint64_t seed) {
  Tensor out = Tensor::Empty(DType::kBF16, std::move(shape));
  for (int64_t i = 0; i < out.num_elements(); ++i)
    out.as<bf16_t>()[i] = RandomBf16Of(seed, i, spread);
  return out;
}

}  // namespace fireq
