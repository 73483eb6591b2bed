#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/backends/cpu/digit_kernels.cpp"
#include "fireq/backends/cpu/digit_kernels.h"

#include <array>
#include <cstring>
#include <limits>

#include "fireq/backends/cpu/product_table.h"
#include "fireq/formats/int4.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#ifndef FIREQ_BACKENDS_CPU_DIGIT_TABLES
#define FIREQ_BACKENDS_CPU_DIGIT_TABLES
namespace fireq::cpu {
namespace {

// By E4M3 code: the value as a scale (2^-9, an activation's unit, taken in), and its digits.
struct DigitTables {
  std::array<float, 256> scale{};
  std::array<std::array<int8_t, kDigits>, 256> digits{};
};

constexpr bool IsNan(e4m3_t code) { return (code & 0x7F) == 0x7F; }

constexpr DigitTables MakeDigitTables() {
  DigitTables out;
  for (int code = 0; code < 256; ++code) {
    const auto at = static_cast<size_t>(code);
    if (IsNan(static_cast<e4m3_t>(code))) continue;
    const float value = E4M3ToFloat(static_cast<e4m3_t>(code));
    out.scale[at] = value * kE4M3MinSubnormal;
    const auto units = static_cast<int32_t>(value / kE4M3MinSubnormal);
    out.digits[at] = {static_cast<int8_t>(units & 127), static_cast<int8_t>(units >> 7 & 127),
                      static_cast<int8_t>(units >> 14)};
  }
  return out;
}

constexpr DigitTables kTables = MakeDigitTables();

}  // namespace
}  // namespace fireq::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace fireq::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

#if HWY_TARGET == HWY_SCALAR
const DigitKernels* const kKernels = nullptr;
#else

using Bytes = hn::CappedTag<uint8_t, 32>;
using Words = hn::Repartition<int16_t, Bytes>;
using Ints = hn::Repartition<int32_t, Bytes>;
using Floats = hn::Repartition<float, Bytes>;

// x[2 i] y[2 i] + x[2 i + 1] y[2 i + 1] of unsigned and signed bytes. Highway 1.0 has no name for
// the x86 instruction.
HWY_INLINE hn::Vec<Words> MulPairs(hn::Vec<Bytes> x, hn::Vec<Words> y) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return hn::Vec<Words>{_mm256_maddubs_epi16(x.raw, y.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_SSSE3
  return hn::Vec<Words>{_mm_maddubs_epi16(x.raw, y.raw)};
#else
  const Words d;
  const hn::RebindToUnsigned<Words> du;
  const auto pairs = hn::BitCast(du, x);
  const auto even = hn::BitCast(d, hn::And(pairs, hn::Set(du, uint16_t{255})));
  const auto odd = hn::BitCast(d, hn::ShiftRight<8>(pairs));
  return hn::Add(hn::Mul(even, hn::ShiftRight<8>(hn::ShiftLeft<8>(y))),
                 hn::Mul(odd, hn::ShiftRight<8>(y)));
#endif
}

// Exact sums over one group of products of codes and x8 * 2^9, by lane.
class GroupSums {
 public:
  HWY_INLINE GroupSums() {
    for (auto& words : words_) words = hn::Zero(Words());
  }

  // 64 codes of one row and the digits that meet them.
  HWY_INLINE void Add(const uint8_t* codes, const int8_t* digits) {
    const Bytes d8;
    const Words d16;
    const auto nibble = hn::Set(d8, uint8_t{15});
    constexpr size_t kHalf = kBlockK / 2;
    for (size_t i = 0; i < kHalf; i += hn::Lanes(d8)) {
      const auto packed = hn::LoadU(d8, codes + i);
      const auto even = hn::And(packed, nibble);
      const auto odd =
          hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, packed))), nibble);
      for (int j = 0; j < kDigits; ++j) {
        const int8_t* digit = digits + j * kBlockK + i;
        words_[j] = hn::Add(words_[j], MulPairs(even, LoadWords(digit)));
        words_[j] = hn::Add(words_[j], MulPairs(odd, LoadWords(digit + kHalf)));
      }
    }
  }

  HWY_INLINE hn::Vec<Ints> Total() const {
    const Ints d;
    const Words d16;
    auto other = hn::Zero(d);
    auto sum = hn::ReorderWidenMulAccumulate(d, words_[0], hn::Set(d16, 1), hn::Zero(d), other);
    sum = hn::ReorderWidenMulAccumulate(d, words_[1], hn::Set(d16, 1 << 7), sum, other);
    sum = hn::ReorderWidenMulAccumulate(d, words_[2], hn::Set(d16, 1 << 14), sum, other);
    return hn::Add(sum, other);
  }

 private:
  static HWY_INLINE hn::Vec<Words> LoadWords(const int8_t* digits) {
    const hn::Repartition<int8_t, Bytes> d;
    return hn::BitCast(Words(), hn::LoadU(d, digits));
  }

  hn::Vec<Words> words_[kDigits];
};

constexpr int64_t kGroupBlocks = kGroup / kBlockK;

// kRows rows at a time, so that their chains of sums overlap.
template <int kRows>
HWY_INLINE void DotRows(const WeightRows& w, int64_t blocks, const DigitRow& x, float* out) {
  const Floats df;
  hn::Vec<Floats> sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = hn::Zero(df);
  for (int64_t g = 0; g < w.groups; ++g) {
    const int64_t block = g * kGroupBlocks;
    const bool whole = block + kGroupBlocks <= blocks;
    const int8_t* digits = x.digits + block * kDigits * kBlockK;
    const auto x_sums = hn::LoadU(Ints(), x.sums + g * kDigitLanes);
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* codes = w.data + r * w.stride_bytes + block * (kBlockK / 2);
      GroupSums group;
      group.Add(codes, digits);
      if (whole) group.Add(codes + kBlockK / 2, digits + kDigits * kBlockK);
      const uint16_t index = w.index[r * w.groups + g];
      const auto zero = hn::Set(Ints(), ZeroOf(index));
      const auto exact = hn::Sub(group.Total(), hn::Mul(zero, x_sums));
      const auto scale = hn::Set(df, kTables.scale[ScaleOf(index)]);
      sums[r] = hn::MulAdd(hn::ConvertTo(df, exact), scale, sums[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) out[r] = hn::GetLane(hn::SumOfLanes(df, sums[r])) + *x.poison;
}

void DotDigits(const WeightRows& w, int64_t num_rows, int64_t k, const DigitRow& x, float* out) {
  constexpr int kRows = 2;
  int64_t r = 0;
  for (; r + kRows <= num_rows; r += kRows) DotRows<kRows>(w.From(r), k / kBlockK, x, out + r);
  for (; r < num_rows; ++r) DotRows<1>(w.From(r), k / kBlockK, x, out + r);
}

// Sums of x8 * 2^9 over a group: its products with codes that are all 1.
void LoadSums(int64_t blocks, const DigitRow& out) {
  alignas(32) uint8_t ones[kBlockK / 2];
  std::memset(ones, 0x11, sizeof(ones));
  for (int64_t block = 0; block < blocks; block += kGroupBlocks) {
    GroupSums group;
    const int8_t* digits = out.digits + block * kDigits * kBlockK;
    group.Add(ones, digits);
    if (block + 1 < blocks) group.Add(ones, digits + kDigits * kBlockK);
    hn::StoreU(group.Total(), Ints(), out.sums + block / kGroupBlocks * kDigitLanes);
  }
}

void LoadDigits(const e4m3_t* x, int64_t n, int64_t k, const DigitRow& out) {
  bool nan = false;
  for (int64_t block = 0; block < k; block += kBlockK) {
    int8_t* digits = out.digits + block * kDigits;
    for (int64_t i = 0; i < kBlockK; ++i) {
      const e4m3_t code = block + i < n ? x[block + i] : e4m3_t{0};
      nan |= IsNan(code);
      int8_t* to = digits + i % 2 * (kBlockK / 2) + i / 2;
      for (int64_t j = 0; j < kDigits; ++j) {
        to[j * kBlockK] = kTables.digits[code][static_cast<size_t>(j)];
      }
    }
  }
  *out.poison = nan ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
  LoadSums(k / kBlockK, out);
}

constexpr DigitKernels kDigitKernels = {LoadDigits, DotDigits};
const DigitKernels* const kKernels = &kDigitKernels;
#endif

}  // namespace

const DigitKernels* ChosenDigits() { return kKernels; }

}  // namespace fireq::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq::cpu {
HWY_EXPORT(ChosenDigits);
const DigitKernels* Digits() { return HWY_DYNAMIC_DISPATCH(ChosenDigits)(); }
}  // namespace fireq::cpu
#endif
