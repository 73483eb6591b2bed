// Integer helpers, host and device.
#pragma once

#include <cstdint>

#include "fireq/base/error.h"
#include "fireq/base/macros.h"

namespace fireq {

template <class T>
FIREQ_HD constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

// Smallest multiple of `unit` that is >= `value`.
template <class T>
FIREQ_HD constexpr T AlignUp(T value, T unit) {
  return CeilDiv(value, unit) * unit;
}

// a * b of two non-negative numbers; throws kInvalidArgument, naming `what`, if it exceeds int64.
inline int64_t CheckedMul(int64_t a, int64_t b, std::string_view what) {
  int64_t product = 0;
  FIREQ_CHECK(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), kInvalidArgument, what,
              ": ", a, " x ", b, " does not fit");
  return product;
}

}  // namespace fireq
