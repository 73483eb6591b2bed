// Every bit pattern of the small formats against arithmetic in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/act_int8.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"
#include "fireq/formats/f16.h"
#include "fireq/formats/int4.h"
#include "fireq/formats/kv_i4.h"
#include "fireq/formats/weight_i4.h"

namespace fireq {
namespace {

double E4M3Value(int code) {
  const int e = (code >> 3) & 15;
  const int m = code & 7;
  const double magnitude = e ? std::ldexp(8 + m, e - 10) : std::ldexp(m, -9);
  return code & 0x80 ? -magnitude : magnitude;
}

// Nearest representable, ties to the even code: by search over all codes.
int NearestE4M3(double x) {
  int best = 0;
  double best_error = std::numeric_limits<double>::infinity();
  for (int code = 0; code < 127; ++code) {
    const double error = std::abs(E4M3Value(code) - std::abs(x));
    if (error < best_error || (error == best_error && code % 2 == 0)) {
      best = code;
      best_error = error;
    }
  }
  return best | (std::signbit(x) ? 0x80 : 0);
}

TEST(E4M3, EveryCodeRoundTrips) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(E4M3ToFloat(static_cast<e4m3_t>(code))));
      continue;
    }
    EXPECT_EQ(E4M3ToFloat(static_cast<e4m3_t>(code)), E4M3Value(code)) << code;
    EXPECT_EQ(FloatToE4M3(static_cast<float>(E4M3Value(code))), code);
  }
}

TEST(E4M3, MidpointsAndNeighboursRoundToEven) {
  for (int code = 0; code < 126; ++code) {
    const float mid = static_cast<float>((E4M3Value(code) + E4M3Value(code + 1)) / 2);
    for (const float x : {mid, std::nextafter(mid, 0.0f), std::nextafter(mid, 1e9f)}) {
      EXPECT_EQ(FloatToE4M3(x), NearestE4M3(x)) << x;
      EXPECT_EQ(FloatToE4M3(-x), NearestE4M3(-x)) << -x;
    }
  }
}

TEST(E4M3, RandomBitPatternsAgreeWithSearch) {
  std::mt19937 rng(7);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(rng()));
    if (std::isnan(x)) {
      EXPECT_EQ(FloatToE4M3(x) & 0x7F, 0x7F);
    } else {
      ASSERT_EQ(FloatToE4M3(x), NearestE4M3(x)) << x;
    }
  }
  EXPECT_EQ(FloatToE4M3(std::numeric_limits<float>::infinity()), 0x7E);
  EXPECT_EQ(FloatToE4M3(1e30f), 0x7E);
}

TEST(Bf16, EveryPatternRoundTripsAndTiesGoToEven) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = Bf16ToFloat(static_cast<bf16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(RoundToBf16(value)));
      continue;
    }
    ASSERT_EQ(FloatToBf16(value), bits);
    if (std::isinf(value)) continue;
    const uint32_t tie = (bits << 16) | 0x8000u;
    ASSERT_EQ(FloatToBf16(std::bit_cast<float>(tie)), bits + (bits & 1)) << bits;
    ASSERT_EQ(FloatToBf16(std::bit_cast<float>(tie - 1)), bits);
    ASSERT_EQ(FloatToBf16(std::bit_cast<float>(tie + 1)), bits + 1);
  }
}

TEST(F16, EveryFinitePatternMatchesLdexp) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int e = (bits >> 10) & 31;
    const int m = bits & 1023;
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    if (e == 31) {
      EXPECT_EQ(std::isnan(value), m != 0);
      continue;
    }
    const double magnitude = e ? std::ldexp(1024 + m, e - 25) : std::ldexp(m, -24);
    ASSERT_EQ(value, bits & 0x8000 ? -magnitude : magnitude) << bits;
  }
}

TEST(Int4, EveryByteUnpacks) {
  for (int byte = 0; byte < 256; ++byte) {
    const uint8_t packed = static_cast<uint8_t>(byte);
    EXPECT_EQ(PackCodes(CodeAt(&packed, 0), CodeAt(&packed, 1)), byte);
    EXPECT_EQ(CodeAt(&packed, 0), byte & 15);
  }
}

TEST(Rounding, HalfToEven) {
  for (int i = -40000; i <= 40000; ++i) {
    const float x = static_cast<float>(i) * 0.25f;
    EXPECT_EQ(RoundHalfEven(x), std::nearbyint(x)) << x;
  }
  EXPECT_EQ(RoundHalfEven(1e20f), 1e20f);
}

TEST(Products, ExactFitsInBf16AndTableIsRoundedOnce) {
  for (int code = 0; code < 16; ++code)
    for (int zero = 0; zero < 16; ++zero)
      for (int s = 0; s < 256; ++s) {
        if ((s & 0x7F) == 0x7F) continue;
        const float scale = E4M3ToFloat(static_cast<e4m3_t>(s));
        const float exact = ExactProduct(code, zero, scale);
        ASSERT_EQ(exact, (code - zero) * static_cast<double>(scale));
        ASSERT_EQ(RoundToBf16(exact), exact);
        ASSERT_EQ(TableProduct(code, zero, scale), E4M3Value(NearestE4M3(exact)));
      }
}

TEST(Products, ServedIsExactUpTo64TokensAndTheTableFromThere) {
  for (const int64_t tokens : {1, 16, 64})
    EXPECT_EQ(ResolveProducts(Products::kServed, tokens), Products::kExact) << tokens;
  for (const int64_t tokens : {65, 127, 8192})
    EXPECT_EQ(ResolveProducts(Products::kServed, tokens), Products::kTable) << tokens;
  for (const int64_t tokens : {1, 8192})
    for (const Products products : {Products::kTable, Products::kExact})
      EXPECT_EQ(ResolveProducts(products, tokens), products);
}

TEST(TokenScale, ZeroRowNanAndRange) {
  EXPECT_EQ(MakeTokenScale(0).scale, 1.0f);
  EXPECT_EQ(FloatToE4M3(0.0f * MakeTokenScale(0).inv_scale), 0);
  EXPECT_TRUE(std::isnan(MakeTokenScale(NAN).scale));
  std::mt19937 rng(3);
  std::lognormal_distribution<float> dist(0, 10);
  for (int i = 0; i < 10000; ++i) {
    const float a = dist(rng);
    const TokenScale s = MakeTokenScale(a);
    EXPECT_EQ(FloatToE4M3(a * s.inv_scale), 0x7E) << a;  // the largest element lands on 448
  }
}

// |reconstruction - v| in steps of the scale.
double Error(float v, KvScale s) {
  const double scale = Bf16ToFloat(s.scale);
  return std::abs((KvCode(v, s) - s.zero) * scale - v) / std::abs(scale);
}

TEST(KvI4, GridsReconstructWithinHalfAStep) {
  std::mt19937 rng(11);
  std::student_t_distribution<float> dist(4);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<float> x(64);
    for (float& v : x) v = dist(rng);
    float lo = 0, hi = 0, extreme = 0;
    for (const float v : x) {
      lo = std::min(lo, v);
      hi = std::max(hi, v);
      if (std::abs(v) > std::abs(extreme)) extreme = v;
    }
    const KvScale asym = AsymmetricKvScale(lo, hi);
    const KvScale sym = SymmetricKvScale(std::abs(extreme));
    const KvScale sig = SignedKvScale(extreme);
    for (const float v : x) {
      // Half a step inside the grid; a scale rounded down to BF16 may cut up to 15 * 2^-9 of a step
      // at its ends, and the signed grid lacks the far end's eighth step.
      EXPECT_LE(Error(v, asym), 1.04);
      EXPECT_LE(Error(v, sym), 0.54);
      EXPECT_LE(Error(v, sig), 1.04);
    }
    EXPECT_EQ(KvCode(extreme, sig), 0);
  }
}

TEST(KvI4, ZeroAndNanVectors) {
  for (const KvScale s : {AsymmetricKvScale(0, 0), SymmetricKvScale(0), SignedKvScale(0)}) {
    EXPECT_EQ(Bf16ToFloat(s.scale), 0x1p-9f);
    EXPECT_EQ(KvCode(0.0f, s), s.zero);
  }
  EXPECT_TRUE(std::isnan(Bf16ToFloat(AsymmetricKvScale(NAN, 1).scale)));
  EXPECT_LE(KvCode(NAN, AsymmetricKvScale(-1, 1)), 15);
}

// Every scale there is; values at and beside every border between two codes, and others.
TEST(KvI4, CodesWithoutADivisionAreTheDividedOnes) {
  std::mt19937 rng(5);
  std::uniform_real_distribution<float> uniform(-15.9f, 15.9f);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const KvScale s{static_cast<bf16_t>(bits), static_cast<uint8_t>(rng() % 16)};
    const float scale = Bf16ToFloat(s.scale);
    if (scale == 0.0f) continue;
    if (!IsFinite(s)) {
      for (const float x : {0.0f, -3.0f, 1e38f, INFINITY, -INFINITY, NAN})
        ASSERT_EQ(KvCodeOfNoScale(x, s), KvCode(x, s)) << x << " scale " << scale;
      continue;
    }
    const KvCoder coder(s);
    const auto check = [&](float x) {
      if (!std::isfinite(x)) return;  // of a scale near the largest float
      ASSERT_EQ(coder(x * coder.factor()), KvCode(x, s)) << x << " scale " << scale;
    };
    for (int border = -15; border <= 14; ++border) {
      float x = (static_cast<float>(border) + 0.5f) * scale;
      for (int i = 0; i < 2; ++i) x = std::nextafter(x, -INFINITY);
      for (int i = 0; i < 5; ++i, x = std::nextafter(x, INFINITY)) check(x);
    }
    for (int i = 0; i < 8; ++i) check(uniform(rng) * scale);
    check(0.0f);
    check(-0.0f);
  }
}

TEST(ActInt8, CodesAreTheNearestOf255) {
  std::mt19937 engine(8);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (int row = 0; row < 100; ++row) {
    const float absmax = std::abs(normal(engine)) + 1e-3f;
    const TokenScale s = MakeInt8TokenScale(absmax);
    EXPECT_EQ(Int8Code(absmax, s.inv_scale), 127);
    EXPECT_EQ(Int8Code(-absmax, s.inv_scale), -127);
    for (int i = 0; i < 100; ++i) {
      const float x = std::clamp(normal(engine), -absmax, absmax);
      EXPECT_LE(std::abs(Int8Code(x, s.inv_scale) * double{s.scale} - x), 0.5001 * s.scale);
    }
  }
  EXPECT_EQ(Int8Code(2.5f, 1.0f), 2);  // ties to even
  EXPECT_EQ(Int8Code(-3.5f, 1.0f), -4);
}

TEST(ActInt8, ZeroNanAndOverflowingRows) {
  EXPECT_EQ(MakeInt8TokenScale(0.0f).scale, 1.0f);
  EXPECT_EQ(Int8Code(0.0f, MakeInt8TokenScale(0.0f).inv_scale), 0);
  const TokenScale poisoned = MakeInt8TokenScale(std::nanf(""));
  EXPECT_TRUE(std::isnan(poisoned.scale));
  EXPECT_EQ(Int8Code(1.0f, poisoned.inv_scale), 0);
  const TokenScale tiny = MakeInt8TokenScale(1e-44f);  // 127 / a overflows
  EXPECT_EQ(Int8Code(1e-44f, tiny.inv_scale), 127);
}

}  // namespace
}  // namespace fireq
