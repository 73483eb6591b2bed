// Round half to even for the small magnitudes that occur in quantisation.
#pragma once

#include "fireq/base/macros.h"

namespace fireq {

// Nearest integer of |x| < 2^22, ties to even, independent of the rounding mode's being readable.
// Larger magnitudes come back unchanged in meaning (they are clamped by the caller anyway).
FIREQ_HD constexpr float RoundHalfEven(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: ulp 1
  if (!(x > -4194304.0f && x < 4194304.0f)) return x;
  return (x + kMagic) - kMagic;
}

}  // namespace fireq
