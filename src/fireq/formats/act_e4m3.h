// Token quantisation: one row of activations (or one head of Q) to E4M3 codes with an FP32 scale.
//
//   a = max |x| over the row in FP32;  x8 = E4M3(x * (448 / a));  scale = a / 448
//   a zero row has x8 = 0 and scale = 1; a NaN poisons its own row only.
// Source: docs/SERVED_ARITHMETIC.md, "Token quantisation".
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"
#include "fireq/formats/e4m3.h"

namespace fireq {

struct TokenScale {
  float scale;      // what a code is multiplied by: a / 448
  float inv_scale;  // what a value is multiplied by before rounding: 448 / a
};

// `absmax` may be NaN: both factors are then NaN and so is every code of the row. An infinity in
// the row gives scale = inf and inv_scale = 0: codes of finite values are 0, of the infinity NaN.
FIREQ_HD constexpr TokenScale MakeTokenScale(float absmax) {
  if (absmax == 0.0f) return {1.0f, 0.0f};
  return {absmax / kE4M3Max, kE4M3Max / absmax};
}

}  // namespace fireq
