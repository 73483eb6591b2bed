#include "fireq/formats/e4m3_vector.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace fireq {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

TEST(E4M3Vector, EqualsTheFormat) {
  const hn::CappedTag<float, 1> d;
  // Every float of 16 leading bits, and the neighbours of the rounding boundaries.
  for (uint32_t high = 0; high < 0x10000u; ++high) {
    for (const uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0xFFFFu}) {
      const float x = std::bit_cast<float>(high << 16 | low);
      if (std::isnan(x)) continue;
      const float rounded = hn::GetLane(HWY_NAMESPACE::RoundToE4M3(d, hn::Set(d, x)));
      ASSERT_EQ(std::bit_cast<uint32_t>(rounded), std::bit_cast<uint32_t>(RoundToE4M3(x))) << x;
    }
  }
}

TEST(E4M3Vector, NanIsTheLargestMagnitude) {
  const hn::CappedTag<float, 1> d;
  const auto nan = hn::Set(d, std::nanf(""));
  EXPECT_EQ(hn::GetLane(HWY_NAMESPACE::RoundMagnitudeE4M3(d, nan)), kE4M3Max);
  EXPECT_EQ(std::abs(hn::GetLane(HWY_NAMESPACE::RoundToE4M3(d, nan))), kE4M3Max);
}

}  // namespace
}  // namespace fireq
