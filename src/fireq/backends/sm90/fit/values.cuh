// What codes are worth and the code for a wanted value: quant/product_values.h on one lane.
#pragma once

#include "fireq/formats/e4m3.h"
#include "fireq/ops/input_fit.h"

namespace fireq::sm90 {

// E4M3(x); |x| < 2^100.
__device__ inline float RoundE4M3(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t carried = bits + 0x7FFFF + (bits >> 20 & 1);
  const float normal = __uint_as_float(carried & 0xFFF00000);
  // Below 2^-6 the grid has step 2^-9, which is the ulp around 1.5 * 2^14.
  constexpr float kMagic = 24576.0f;
  const float subnormal = __fsub_rn(__fadd_rn(x, kMagic), kMagic);
  const float rounded = fabsf(x) < 0x1p-6f ? subnormal : normal;
  return fminf(fmaxf(rounded, -kE4M3Max), kE4M3Max);
}

// clamp(rne(w / scale) + zero, 0, 15)
__device__ inline float CodeOf(float w, float scale, float zero) {
  // |w / scale| is clamped first: the magic number rounds |x| < 2^22 only.
  const float ratio = fminf(fmaxf(w / scale, -64.0f), 64.0f);
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23, as in formats/rounding.h
  const float code = __fsub_rn(__fadd_rn(ratio, kMagic), kMagic) + zero;
  return fminf(fmaxf(code, 0.0f), 15.0f);
}

// The product of a code, or the mean of both products.
template <ErrorProducts P>
__device__ inline float ProductValue(float code, float scale, float zero) {
  const float exact = (code - zero) * scale;
  if constexpr (P == ErrorProducts::kExact) return exact;
  const float table = RoundE4M3(exact);
  return P == ErrorProducts::kTable ? table : 0.5f * (exact + table);
}

// For kMean: what the two products' distance from their mean adds to the mean squared error.
template <ErrorProducts P>
__device__ inline float ProductSpread(float code, float scale, float zero) {
  if constexpr (P != ErrorProducts::kMean) return 0.0f;
  const float exact = (code - zero) * scale;
  const float half = 0.5f * (exact - RoundE4M3(exact));
  return half * half;
}

struct ValuedCode {
  float code, value;
};

// The code whose value is nearest to w. Table products are not evenly spaced, so it may be a
// neighbour of the one next to w / scale.
template <ErrorProducts P>
__device__ inline ValuedCode Nearest(float w, float scale, float zero) {
  ValuedCode best;
  best.code = CodeOf(w, scale, zero);
  best.value = ProductValue<P>(best.code, scale, zero);
  if constexpr (P == ErrorProducts::kExact) return best;
  const float others[2] = {fmaxf(best.code - 1.0f, 0.0f), fminf(best.code + 1.0f, 15.0f)};
  float error = fabsf(best.value - w);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float value = ProductValue<P>(others[i], scale, zero);
    if (fabsf(value - w) < error) {
      error = fabsf(value - w);
      best = {others[i], value};
    }
  }
  return best;
}

}  // namespace fireq::sm90
