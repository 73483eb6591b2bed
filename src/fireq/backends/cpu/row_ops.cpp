#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/backends/cpu/row_ops.cpp"
#include "fireq/backends/cpu/row_ops.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "fireq/formats/int4.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After foreach_target.h: once a target.
#include "fireq/formats/e4m3_vector.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

using fireq::HWY_NAMESPACE::RoundMagnitudeE4M3;
using fireq::HWY_NAMESPACE::RoundToE4M3;

using Full = hn::CappedTag<float, 16>;
using One = hn::CappedTag<float, 1>;

// body(d, i) over [0, n): whole vectors, then single values.
template <class Body>
HWY_INLINE void ForEach(int64_t n, const Body& body) {
  const Full d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  for (; i < n; ++i) body(One(), i);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadBorder(D d, const bf16_t* x) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, x))));
}
template <class D>
HWY_INLINE hn::Vec<D> LoadBorder(D d, const float* x) {
  return hn::LoadU(d, x);
}

// Bits of BF16(x), half to even, NaN quiet (formats/bf16.h), in the upper halves.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> RoundBf16Bits([[maybe_unused]] D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> d32;
  const auto bits = hn::BitCast(d32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFFu)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x00400000u));
  return hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(x)), quiet, rounded);
}

template <class D>
HWY_INLINE hn::Vec<D> RoundBorder(D d, hn::Vec<D> x, const bf16_t*) {
  const hn::RebindToUnsigned<D> d32;
  return hn::BitCast(d, hn::And(RoundBf16Bits(d, x), hn::Set(d32, 0xFFFF0000u)));
}
template <class D>
HWY_INLINE hn::Vec<D> RoundBorder(D, hn::Vec<D> x, const float*) {
  return x;
}

template <class D>
HWY_INLINE void StoreBorder(D d, hn::Vec<D> x, bf16_t* out) {
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto words = hn::BitCast(di, hn::ShiftRight<16>(RoundBf16Bits(d, x)));
  hn::StoreU(hn::DemoteTo(d16, words), d16, out);
}
template <class D>
HWY_INLINE void StoreBorder(D d, hn::Vec<D> x, float* out) {
  hn::StoreU(x, d, out);
}

// 2^x for x <= 128; 0 below -126. NaN stays NaN. Relative error below 1e-7.
template <class D>
HWY_INLINE hn::Vec<D> Exp2(D d, hn::Vec<D> x) {
  const hn::Rebind<int32_t, D> di;
  const auto low = hn::Set(d, -126.0f);
  const auto limited = hn::IfThenElse(hn::Gt(x, low), x, low);
  const auto whole = hn::Round(limited);
  const auto f = hn::Sub(limited, whole);
  // Taylor series of 2^f on |f| <= 1/2: the first term left out is 5e-9.
  auto p = hn::Set(d, 1.525273380e-5f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.540353039e-4f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.333355815e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.618129108e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.550410866e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.402265070e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931471806e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const auto bits = hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::ConvertTo(di, whole)));
  const auto value = hn::IfThenElseZero(hn::Ge(x, low), hn::BitCast(d, bits));
  return hn::IfThenElse(hn::IsNaN(x), x, value);
}

void Bf16ToF32(const bf16_t* x, int64_t n, float* out) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(LoadBorder(d, x + i), d, out + i); });
}

void F32ToBf16(const float* x, int64_t n, bf16_t* out) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR { StoreBorder(d, hn::LoadU(d, x + i), out + i); });
}

void E4M3ToF32(const e4m3_t* x, int64_t n, float* out) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    const hn::Rebind<uint8_t, decltype(d)> d8;
    const hn::Rebind<uint32_t, decltype(d)> d32;
    const auto code = hn::PromoteTo(d32, hn::LoadU(d8, x + i));
    const auto magnitude = hn::And(code, hn::Set(d32, 0x7Fu));
    // Exponent and mantissa in place leave the value times 2^-120; subnormals come out right.
    const auto value = hn::Mul(hn::BitCast(d, hn::ShiftLeft<20>(magnitude)), hn::Set(d, 0x1p120f));
    const auto sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(d32, 0x80u)));
    const auto nan = hn::BitCast(d, hn::Set(d32, 0x7FC00000u));
    const auto number =
        hn::IfThenElse(hn::RebindMask(d, hn::Eq(magnitude, hn::Set(d32, 0x7Fu))), nan, value);
    hn::StoreU(hn::Or(number, hn::BitCast(d, sign)), d, out + i);
  });
}

float AbsMax(const float* x, int64_t n) {
  const Full d;
  auto most = hn::Zero(d);
  auto poison = hn::Zero(d);  // 0 * finite stays 0; NaN and infinities are sorted out below
  float tail = 0.0f;
  bool tail_nan = false;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    const auto magnitude = hn::Abs(v);
    most = hn::IfThenElse(hn::Gt(magnitude, most), magnitude, most);
    poison = hn::IfThenElse(hn::IsNaN(v), v, poison);
  }
  for (; i < n; ++i) {
    tail = std::abs(x[i]) > tail ? std::abs(x[i]) : tail;
    tail_nan |= std::isnan(x[i]);
  }
  if (tail_nan || !hn::AllFalse(d, hn::IsNaN(poison))) return std::nanf("");
  return std::max(tail, hn::GetLane(hn::MaxOfLanes(d, most)));
}

// Codes of a run of at most one group; returns their sum.
HWY_INLINE float QuantizeRun(const float* x, int64_t n, float inv_scale, e4m3_t* codes) {
  float tail_sum = 0.0f;
  auto sum = hn::Zero(Full());
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    const hn::Rebind<int32_t, decltype(d)> di;
    const hn::Rebind<uint8_t, decltype(d)> d8;
    const auto v = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inv_scale));
    const auto magnitude = RoundMagnitudeE4M3(d, hn::Abs(v));
    const auto normal = hn::Sub(hn::ShiftRight<20>(hn::BitCast(di, magnitude)), hn::Set(di, 960));
    const auto small = hn::ConvertTo(di, hn::Mul(magnitude, hn::Set(d, 512.0f)));
    const auto is_small = hn::Lt(magnitude, hn::Set(d, 0x1p-6f));
    const auto code = hn::IfThenElse(hn::RebindMask(di, is_small), small, normal);
    const auto sign = hn::BitCast(
        di, hn::And(hn::ShiftRight<24>(hn::BitCast(hn::RebindToUnsigned<decltype(d)>(), v)),
                    hn::Set(hn::RebindToUnsigned<decltype(d)>(), 0x80u)));
    hn::StoreU(hn::DemoteTo(d8, hn::Or(code, sign)), d8, codes + i);
    const auto rounded = hn::CopySign(magnitude, v);
    if constexpr (std::is_same_v<decltype(d), One>) {
      tail_sum += hn::GetLane(rounded);
    } else {
      sum = hn::Add(sum, rounded);
    }
  });
  return hn::GetLane(hn::SumOfLanes(Full(), sum)) + tail_sum;
}

void Quantize(const float* x, int64_t n, float inv_scale, e4m3_t* codes, float* sums) {
  for (int64_t k = 0; k < n; k += kGroup) {
    const int64_t count = std::min<int64_t>(kGroup, n - k);
    float sum = 0.0f;
    if (inv_scale > 0.0f && inv_scale <= kE4M3Max * 0x1p100f) {
      sum = QuantizeRun(x + k, count, inv_scale, codes + k);
    } else {
      // Zero, NaN, infinite and overflowing rows: as the format has it, value by value.
      for (int64_t i = k; i < k + count; ++i) {
        codes[i] = FloatToE4M3(x[i] * inv_scale);
        sum += E4M3ToFloat(codes[i]);
      }
    }
    if (sums != nullptr) sums[k / kGroup] = sum;
  }
}

void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  auto squares = hn::Zero(Full());
  float tail = 0.0f;
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i);
    if constexpr (std::is_same_v<decltype(d), One>) {
      tail += hn::GetLane(v) * hn::GetLane(v);
    } else {
      squares = hn::MulAdd(v, v, squares);
    }
  });
  const float sum = hn::GetLane(hn::SumOfLanes(Full(), squares)) + tail;
  const float factor = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto normed = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor));
    hn::StoreU(hn::Mul(normed, hn::LoadU(d, weight + i)), d, y + i);
  });
}

void SiluMul(const float* gate, const float* up, int64_t n, float* h) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto g = hn::LoadU(d, gate + i);
    // 2^-126 .. 2^126: beyond, silu is gate or 0 to the last bit.
    const auto exponent = hn::Mul(g, hn::Set(d, -1.44269504f));
    const auto high = hn::Set(d, 126.0f);
    const auto e = Exp2(d, hn::IfThenElse(hn::Gt(exponent, high), high, exponent));
    const auto silu = hn::Div(g, hn::Add(hn::Set(d, 1.0f), e));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + i)), d, h + i);
  });
}

void ScaleBias(float* x, int64_t n, float scale, const float* bias) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    auto v = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale));
    if (bias != nullptr) v = hn::Add(v, hn::LoadU(d, bias + i));
    hn::StoreU(v, d, x + i);
  });
}

template <class Border>
HWY_INLINE void EpilogueAs(const float* sums, int64_t n, const EpilogueRow& row) {
  auto* y = static_cast<Border*>(row.y);
  const auto* residual = static_cast<const Border*>(row.residual);
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    auto v = hn::Mul(hn::LoadU(d, sums + i), hn::Set(d, row.scale));
    if (row.bias != nullptr) v = hn::Add(v, hn::LoadU(d, row.bias + i));
    if (residual != nullptr) v = hn::Add(RoundBorder(d, v, y), LoadBorder(d, residual + i));
    StoreBorder(d, v, y + i);
  });
}

void Epilogue(const float* sums, int64_t n, const EpilogueRow& row) {
  if (row.bf16) {
    EpilogueAs<bf16_t>(sums, n, row);
  } else {
    EpilogueAs<float>(sums, n, row);
  }
}

// Scores of the tile in log2 units, in place; returns their largest, NaN left out.
HWY_INLINE float ScaleScores(float* s, const SoftmaxTile& tile) {
  const Full d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto most = hn::Set(d, -3.0e38f);
  const auto lane = hn::Iota(d, 0.0f);
  for (int64_t i = 0; i < 64; i += lanes) {
    auto v = hn::LoadU(d, s + i);
    if (tile.key_zero != nullptr) {
      v = hn::NegMulAdd(hn::Set(d, tile.query_sum), hn::LoadU(d, tile.key_zero + i), v);
    }
    v = hn::Mul(v, hn::Set(d, tile.query_scale));
    if (tile.key_scale != nullptr) v = hn::Mul(v, hn::LoadU(d, tile.key_scale + i));
    hn::StoreU(v, d, s + i);
    const auto seen = hn::Lt(lane, hn::Set(d, static_cast<float>(tile.num_keys - i)));
    most = hn::IfThenElse(hn::And(seen, hn::Gt(v, most)), v, most);
  }
  return hn::GetLane(hn::MaxOfLanes(d, most));
}

float Softmax(float* s, const SoftmaxTile& tile, SoftmaxRow* row) {
  const Full d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const float old_max = row->max;
  const float max = std::max(old_max, std::ceil(ScaleScores(s, tile)));
  const auto lane = hn::Iota(d, 0.0f);
  auto sum = hn::Zero(d);
  auto zeros = hn::Zero(d);
  for (int64_t i = 0; i < 64; i += lanes) {
    const auto seen = hn::Lt(lane, hn::Set(d, static_cast<float>(tile.num_keys - i)));
    const auto p = hn::IfThenElseZero(seen, Exp2(d, hn::Sub(hn::LoadU(d, s + i), hn::Set(d, max))));
    sum = hn::Add(sum, p);
    auto v = hn::Mul(p, hn::LoadU(d, tile.value_scale + i));
    if (tile.round_probs) {
      v = hn::IfThenElse(hn::IsNaN(v), v, RoundToE4M3(d, v));
    }
    v = hn::IfThenElseZero(seen, v);
    hn::StoreU(v, d, s + i);
    if (tile.value_zero != nullptr) zeros = hn::MulAdd(v, hn::LoadU(d, tile.value_zero + i), zeros);
  }
  const float rescale = std::exp2(std::max(old_max - max, -200.0f));
  row->max = max;
  row->sum = row->sum * rescale + hn::GetLane(hn::SumOfLanes(d, sum));
  row->zeros = row->zeros * rescale + hn::GetLane(hn::SumOfLanes(d, zeros));
  return rescale;
}

void Scale(float* x, int64_t n, float scale) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale)), d, x + i);
  });
}

void ShiftScale(const float* x, int64_t n, float shift, float scale, float* out) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto v = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, shift));
    hn::StoreU(hn::Mul(v, hn::Set(d, scale)), d, out + i);
  });
}

void Rope(float* x, const float* cos, const float* sin, int64_t n) {
  const int64_t half = n / 2;
  ForEach(half, [&](auto d, int64_t i) HWY_ATTR {
    const auto x0 = hn::LoadU(d, x + i);
    const auto x1 = hn::LoadU(d, x + half + i);
    const auto c = hn::LoadU(d, cos + i);
    const auto s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::Sub(hn::Mul(x0, c), hn::Mul(x1, s)), d, x + i);
    hn::StoreU(hn::Add(hn::Mul(x1, c), hn::Mul(x0, s)), d, x + half + i);
  });
}

void Multiply(float* x, const float* factor, int64_t n) {
  ForEach(n, [&](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::LoadU(d, factor + i)), d, x + i);
  });
}

}  // namespace

const RowOps* Ops() {
  static const RowOps ops = {hwy::TargetName(HWY_TARGET),
                             Bf16ToF32,
                             F32ToBf16,
                             E4M3ToF32,
                             AbsMax,
                             Quantize,
                             RmsNorm,
                             SiluMul,
                             ScaleBias,
                             Epilogue,
                             Softmax,
                             Scale,
                             ShiftScale,
                             Rope,
                             Multiply};
  return &ops;
}

}  // namespace fireq::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq::cpu {
HWY_EXPORT(Ops);
const RowOps& Rows() { return *HWY_DYNAMIC_DISPATCH(Ops)(); }
}  // namespace fireq::cpu
#endif
