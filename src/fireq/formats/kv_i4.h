// INT4 quantisation of one K or V vector (one token, one KV head).
//
//   x_hat = (q - z) * s;  s BF16, z 0..15, q 0..15
//   asymmetric: hi = max(0, max x), lo = min(0, min x); s = BF16((hi - lo) / 15);
//               z = clamp(rne(-lo / s), 0, 15); q = clamp(rne(x / s) + z, 0, 15)
//   symmetric:  s = BF16(max|x| / 7), z = 8, q = clamp(rne(x / s), -8, 7) + 8
//   signed:     s = BF16(-x_m / 8), x_m the (first) element of largest magnitude, z = 8, q as above
//   A scale that comes out zero is 2^-9.
// Source: docs/SERVED_ARITHMETIC.md, "K and V". Where the bytes lie: formats/kv_page.h.
#pragma once

#include <bit>
#include <cstdint>

#include "fireq/base/macros.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/rounding.h"

namespace fireq {

enum class KvGrid : uint8_t { kFloat, kSymmetric, kSigned, kAsymmetric };

struct KvScale {
  bf16_t scale;
  uint8_t zero;
};

namespace internal {
FIREQ_HD constexpr bf16_t NonZeroScale(float scale) {
  const bf16_t rounded = FloatToBf16(scale);
  return (rounded & 0x7FFFu) == 0 ? FloatToBf16(0x1p-9f) : rounded;
}
FIREQ_HD constexpr float Clamp(float x, float lo, float hi) {
  return x < lo ? lo : (x > hi ? hi : x);  // NaN passes through
}
}  // namespace internal

// lo <= 0 <= hi are the vector's extremes with zero included.
FIREQ_HD constexpr KvScale AsymmetricKvScale(float lo, float hi) {
  const bf16_t scale = internal::NonZeroScale((hi - lo) / 15.0f);
  const float zero = internal::Clamp(RoundHalfEven(-lo / Bf16ToFloat(scale)), 0.0f, 15.0f);
  return {scale, static_cast<uint8_t>(zero == zero ? zero : 0.0f)};
}
FIREQ_HD constexpr KvScale SymmetricKvScale(float absmax) {
  return {internal::NonZeroScale(absmax / 7.0f), 8};
}
// `extreme` is the signed element of largest magnitude.
FIREQ_HD constexpr KvScale SignedKvScale(float extreme) {
  return {internal::NonZeroScale(-extreme / 8.0f), 8};
}

// A NaN becomes code 0 with the NaN scale its vector has, so the vector stays NaN.
FIREQ_HD constexpr uint8_t KvCode(float x, KvScale s) {
  const float code = internal::Clamp(
      RoundHalfEven(x / Bf16ToFloat(s.scale)) + static_cast<float>(s.zero), 0.0f, 15.0f);
  return static_cast<uint8_t>(code == code ? code : 0.0f);
}

// KvCode of a vector's values without a division each, where the scale is finite. The quotient is
// the divided one to the bit: q's remainder is exact, so q + remainder / s errs by 2^-46 of itself,
// and as s has 8 bits no x / s lies within 2^-33 of the middle between two floats.
class KvCoder {
 public:
  explicit FIREQ_HD constexpr KvCoder(KvScale s)
      : factor_(Factor(s.scale)),
        scale_(Bf16ToFloat(s.scale) * factor_),
        inverse_(1.0f / scale_),
        offset_(s.zero - kMagicBits) {}

  // What keeps everything within the range of floats: 1 unless the scale is extreme.
  FIREQ_HD constexpr float factor() const { return factor_; }
  // Of a value times factor(); |value / s| < 2^22.
  FIREQ_HD constexpr uint32_t operator()(float x) const {
    const float q = x * inverse_;
    const float quotient = Fma(Fma(-q, scale_, x), inverse_, q);
    const int32_t code = std::bit_cast<int32_t>(quotient + kMagic) + offset_;
    return static_cast<uint32_t>(code < 0 ? 0 : (code > 15 ? 15 : code));
  }

 private:
  static FIREQ_HD constexpr float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static FIREQ_HD constexpr float Factor(bf16_t scale) {
    const int exponent = (scale >> 7 & 0xFF) - 127;
    return exponent < -60 ? 0x1p70f : (exponent > 60 ? 0x1p-70f : 1.0f);
  }
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: ulp 1, so a sum is a rounded integer
  static constexpr int32_t kMagicBits = std::bit_cast<int32_t>(kMagic);

  float factor_;
  float scale_;
  float inverse_;
  int32_t offset_;
};

// KvCode where the scale is not finite.
FIREQ_HD constexpr uint32_t KvCodeOfNoScale(float x, KvScale s) {
  const bool is_nan = (s.scale & 0x7Fu) != 0;
  return is_nan || !(x - x == 0.0f) ? 0u : s.zero;
}
FIREQ_HD constexpr bool IsFinite(KvScale s) { return (s.scale & 0x7F80u) != 0x7F80u; }

}  // namespace fireq
