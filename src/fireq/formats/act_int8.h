// Token quantisation to INT8: one row of activations to codes -127..127 with an FP32 scale.
//
//   a = max |x| over the row in FP32;  x8 = rne(x * (127 / a));  scale = a / 127
//   a zero row has x8 = 0 and scale = 1; a NaN poisons its own row only.
// A rival's (QServe, arXiv 2405.04532), to be measured: no kernel of ours serves it.
// Source: docs/SERVED_ARITHMETIC.md, "Token quantisation".
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/rounding.h"

namespace fireq {

inline constexpr float kInt8CodeMax = 127.0f;

// `absmax` as MakeTokenScale's.
FIREQ_HD constexpr TokenScale MakeInt8TokenScale(float absmax) {
  if (absmax == 0.0f) return {1.0f, 0.0f};
  return {absmax / kInt8CodeMax, kInt8CodeMax / absmax};
}

// What has no value (of a row whose scale is NaN or infinite) becomes 0.
FIREQ_HD constexpr int8_t Int8Code(float x, float inv_scale) {
  const float code = RoundHalfEven(x * inv_scale);
  if (!(code == code)) return 0;
  return static_cast<int8_t>(code < -kInt8CodeMax  ? -kInt8CodeMax
                             : code > kInt8CodeMax ? kInt8CodeMax
                                                   : code);
}

}  // namespace fireq
