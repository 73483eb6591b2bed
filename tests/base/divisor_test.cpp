#include "fireq/base/divisor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace fireq {
namespace {

TEST(Divisor, Divides) {
  constexpr int kLargest = std::numeric_limits<int>::max();
  for (const int d : {1, 2, 3, 7, 8, 64, 66, 127, 641, 4096, 65537, kLargest - 1, kLargest}) {
    const Divisor divisor(d);
    EXPECT_EQ(divisor.value, d);
    for (const int64_t at : {int64_t{0}, int64_t{1} * d, int64_t{2} * d, int64_t{1000} * d,
                             int64_t{kLargest} / d * d, int64_t{kLargest}})
      for (int64_t n = at - 2; n <= at + 2; ++n)
        if (n >= 0 && n <= kLargest) {
          ASSERT_EQ(static_cast<int>(n) / divisor, n / d) << n << " / " << d;
        }
  }
}

}  // namespace
}  // namespace fireq
