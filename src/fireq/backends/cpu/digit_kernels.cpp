#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/backends/cpu/digit_kernels.cpp"
#include "fireq/backends/cpu/digit_kernels.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "fireq/backends/cpu/product_table.h"
#include "fireq/formats/int4.h"
#include "fireq/formats/kv_page.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#ifndef FIREQ_BACKENDS_CPU_DIGIT_SCALES
#define FIREQ_BACKENDS_CPU_DIGIT_SCALES
namespace fireq::cpu {
namespace {

// By E4M3 code: a weight's scale times 2^-9, the unit of activations.
constexpr std::array<float, 256> MakeScales() {
  std::array<float, 256> out{};
  for (size_t code = 0; code < out.size(); ++code) {
    if ((code & 0x7F) == 0x7F) continue;  // NaN: never a weight's scale
    out[code] = E4M3ToFloat(static_cast<e4m3_t>(code)) * kE4M3MinSubnormal;
  }
  return out;
}

constexpr std::array<float, 256> kScales = MakeScales();

}  // namespace
}  // namespace fireq::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace fireq::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

#if HWY_TARGET != HWY_SCALAR

constexpr size_t kHalfBlock = kBlockK / 2;  // bytes of 64 codes

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
    for (size_t i = 0; i < kHalfBlock; i += hn::Lanes(Bytes())) AddVector(codes + i, digits + i);
  }

  // One vector of bytes of codes; its high nibbles' digits are kHalfBlock after the low ones'.
  HWY_INLINE void AddVector(const uint8_t* codes, const int8_t* digits) {
    const Bytes d8;
    const Words d16;
    const auto nibble = hn::Set(d8, uint8_t{15});
    const auto packed = hn::LoadU(d8, codes);
    const auto low = hn::And(packed, nibble);
    const auto high = hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, packed))), nibble);
    for (int j = 0; j < kDigits; ++j) {
      const int8_t* digit = digits + j * kBlockK;
      words_[j] = hn::Add(words_[j], MulPairs(low, LoadWords(digit)));
      words_[j] = hn::Add(words_[j], MulPairs(high, LoadWords(digit + kHalfBlock)));
    }
  }

  HWY_INLINE hn::Vec<Ints> Total() const {
    const Ints d;
    const Words d16;
    auto other = hn::Zero(d);
    auto sum = hn::ReorderWidenMulAccumulate(d, words_[0], hn::Set(d16, 1), hn::Zero(d), other);
    sum = hn::ReorderWidenMulAccumulate(d, words_[1], hn::Set(d16, 1 << 7), sum, other);
    sum = hn::ReorderWidenMulAccumulate(d, words_[2], hn::Set(d16, 1 << 14), sum, other);
    return hn::RearrangeToOddPlusEven(sum, other);
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
    const int32_t* zero_sums = x.zero_sums + g * (kCodeMax + 1) * kDigitLanes;
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* codes = w.data + r * w.stride_bytes + block * (kBlockK / 2);
      __builtin_prefetch(codes + kPrefetchBytes);
      GroupSums group;
      group.Add(codes, digits);
      if (whole) group.Add(codes + kBlockK / 2, digits + kDigits * kBlockK);
      const uint16_t index = w.index[r * w.groups + g];
      const auto zero = hn::LoadU(Ints(), zero_sums + ZeroOf(index) * kDigitLanes);
      const auto exact = hn::Sub(group.Total(), zero);
      const auto scale = hn::Set(df, kScales[ScaleOf(index)]);
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

// z times the sums of x8 * 2^9 over a group, which are its products with codes that are all 1.
void LoadZeroSums(int64_t blocks, const DigitRow& out) {
  const Ints d;
  alignas(32) uint8_t ones[kHalfBlock];
  std::memset(ones, 0x11, sizeof(ones));
  int32_t* to = out.zero_sums;
  for (int64_t block = 0; block < blocks; block += kGroupBlocks) {
    GroupSums group;
    const int8_t* digits = out.digits + block * kDigits * kBlockK;
    group.Add(ones, digits);
    if (block + 1 < blocks) group.Add(ones, digits + kDigits * kBlockK);
    auto sum = hn::Zero(d);
    for (int zero = 0; zero <= kCodeMax; ++zero, to += kDigitLanes) {
      hn::StoreU(sum, d, to);
      sum = hn::Add(sum, group.Total());
    }
  }
}

// The next codes of a row, at most a block, in the order of a block of weights or of K.
HWY_INLINE void OrderCodes(const e4m3_t* x, int64_t n, DigitOrder order, e4m3_t* out) {
  alignas(32) e4m3_t block[kBlockK] = {};
  std::memcpy(block, x, static_cast<size_t>(std::min(n, kBlockK)));
  if (order == DigitOrder::kSplit) {
    for (size_t i = 0; i < kHalfBlock; ++i) {
      out[i] = block[2 * i];
      out[kHalfBlock + i] = block[2 * i + 1];
    }
  } else {
    for (size_t run = 0; run < 2; ++run) {
      std::memcpy(out + run * 16, block + run * 32, 16);
      std::memcpy(out + kHalfBlock + run * 16, block + run * 32 + 16, 16);
    }
  }
}

// Multiples of 2^-9, |units| < 2^18, to [kDigits][64].
HWY_INLINE void SplitUnits(const int32_t* units, int8_t* out) {
  for (int64_t i = 0; i < kBlockK; ++i) {
    out[i] = static_cast<int8_t>(units[i] & 127);
    out[kBlockK + i] = static_cast<int8_t>(units[i] >> 7 & 127);
    out[2 * kBlockK + i] = static_cast<int8_t>(units[i] >> 14);
  }
}

void LoadDigits(const e4m3_t* x, int64_t n, int64_t k, DigitOrder order, const DigitRow& out) {
  int32_t nan = 0;
  for (int64_t block = 0; block < k; block += kBlockK) {
    alignas(32) e4m3_t codes[kBlockK];
    alignas(32) int32_t units[kBlockK];
    OrderCodes(x + block, n - block, order, codes);
    for (int64_t i = 0; i < kBlockK; ++i) {
      const int32_t magnitude = codes[i] & 0x7F;
      const int32_t exponent = magnitude >> 3;
      const int32_t normal = static_cast<int32_t>(exponent != 0);
      const int32_t units_of = ((magnitude & 7) | normal << 3) << (exponent - normal);
      nan |= static_cast<int32_t>(magnitude == 0x7F);
      units[i] = (codes[i] & 0x80) != 0 ? -units_of : units_of;
    }
    SplitUnits(units, out.digits + block * kDigits);
  }
  *out.poison = nan != 0 ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
  if (order == DigitOrder::kSplit) LoadZeroSums(k / kBlockK, out);
}

void Scores(const uint8_t* codes, int64_t num_keys, int64_t head_dim, const DigitRow& query,
            float* out) {
  const Ints d;
  for (int64_t key = 0; key < num_keys; ++key) {
    float score = *query.poison;
    for (int64_t i = 0; i < head_dim; i += kGroup) {
      GroupSums group;
      for (int64_t block = i; block < head_dim && block < i + kGroup; block += kBlockK) {
        group.Add(codes + (key * head_dim + block) / 2, query.digits + block * kDigits);
      }
      const int32_t sum = hn::GetLane(hn::SumOfLanes(d, group.Total()));
      score += static_cast<float>(sum) * kE4M3MinSubnormal;
    }
    out[key] = score;
  }
  std::fill(out + num_keys, out + kPageTokens, 0.0f);
}

// Digits of 64 probabilities in the order of V's codes, each group's 8 bytes as often as a vector
// of codes has them: [group][digit][low | high keys][kHalfBlock]. False if one is NaN.
HWY_INLINE bool ProbDigits(const float* p, int8_t* out) {
  static_assert(kPageTokens == kBlockK);
  int32_t nan = 0;
  alignas(32) int32_t units[kPageTokens];
  alignas(32) int8_t digits[kDigits][kPageTokens];
  for (int64_t key = 0; key < kPageTokens; ++key) {
    const bool number = p[key] == p[key];
    nan |= static_cast<int32_t>(!number);
    units[key] = static_cast<int32_t>((number ? p[key] : 0.0f) * (1.0f / kE4M3MinSubnormal));
  }
  SplitUnits(units, digits[0]);
  for (int64_t group = 0; group < kPageTokens / kVGroupTokens; ++group) {
    for (int64_t j = 0; j < kDigits; ++j) {
      for (int64_t half = 0; half < 2; ++half, out += kHalfBlock) {
        for (size_t i = 0; i < kHalfBlock; i += kVGroupBytes) {
          std::memcpy(out + i, digits[j] + group * kVGroupTokens + half * kVGroupBytes,
                      kVGroupBytes);
        }
      }
    }
  }
  return nan == 0;
}

void Values(const uint8_t* codes, int64_t head_dim, const float* p, float* sums) {
  const Ints d;
  constexpr int64_t kGroups = kPageTokens / kVGroupTokens;
  alignas(32) int8_t digits[kGroups * kDigits * kBlockK];
  const float poison = ProbDigits(p, digits) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  const int64_t step = static_cast<int64_t>(hn::Lanes(Bytes())) / kVGroupBytes;
  for (int64_t i = 0; i < head_dim; i += step) {
    GroupSums group;
    for (int64_t g = 0; g < kGroups; ++g) {
      group.AddVector(codes + (g * head_dim + i) * kVGroupBytes, digits + g * kDigits * kBlockK);
    }
    alignas(32) int32_t pairs[kDigitLanes];
    hn::Store(group.Total(), d, pairs);
    for (int64_t j = 0; j < step; ++j) {
      const int32_t sum = pairs[2 * j] + pairs[2 * j + 1];
      sums[i + j] += static_cast<float>(sum) * kE4M3MinSubnormal + poison;
    }
  }
}

constexpr DigitKernels kKernels = {LoadDigits, DotDigits, Scores, Values};
#endif

}  // namespace

#if HWY_TARGET == HWY_SCALAR
const DigitKernels* ChosenDigits() { return nullptr; }
#else
const DigitKernels* ChosenDigits() { return &kKernels; }
#endif

}  // namespace fireq::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq::cpu {
HWY_EXPORT(ChosenDigits);
const DigitKernels* Digits() { return HWY_DYNAMIC_DISPATCH(ChosenDigits)(); }
}  // namespace fireq::cpu
#endif
