// FP32 operands on whatever vectors Highway finds (SSE to AVX-512, NEON, SVE, or none).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/backends/cpu/gemm_portable.cpp"
#include <algorithm>
#include <cstring>

#include "fireq/backends/cpu/gemm_kernels.h"
#include "fireq/formats/int4.h"
#include "fireq/formats/kv_page.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

// BF16 words to FP32.
template <class D>
HWY_INLINE hn::Vec<D> WidenBf16(D d, const bf16_t* words) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Repartition<uint32_t, D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, words))));
}

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void ExpandBlock(const uint8_t* codes, const uint16_t* product_row, float* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(product_row);
  for (int i = 0; i < 64; ++i) {
    const uint8_t code = CodeAt(codes, i);
    const auto word = static_cast<bf16_t>(bytes[code] | bytes[16 + code] << 8);
    out[i % 2 * 32 + i / 2] = Bf16ToFloat(word);
  }
}
#else
// 64 codes of one row to FP32 products in split order.
HWY_INLINE void ExpandBlock(const uint8_t* codes, const uint16_t* product_row, float* out) {
  const hn::FixedTag<uint8_t, 16> d8;
  const hn::FixedTag<uint16_t, 8> d16;
  const hn::FixedTag<float, 4> df;
  const auto* bytes = reinterpret_cast<const uint8_t*>(product_row);
  const auto low_bytes = hn::LoadU(d8, bytes);
  const auto high_bytes = hn::LoadU(d8, bytes + 16);
  const auto nibble = hn::Set(d8, uint8_t{15});
  for (int64_t half = 0; half < 2; ++half) {
    const auto packed = hn::LoadU(d8, codes + half * 16);
    const auto even = hn::And(packed, nibble);
    const auto odd = hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, packed))), nibble);
    alignas(16) bf16_t words[2][16];
    const auto store = [&](auto code, bf16_t* to) HWY_ATTR {
      const auto lo = hn::TableLookupBytes(low_bytes, code);
      const auto hi = hn::TableLookupBytes(high_bytes, code);
      hn::Store(hn::BitCast(d16, hn::InterleaveLower(d8, lo, hi)), d16, to);
      hn::Store(hn::BitCast(d16, hn::InterleaveUpper(d8, lo, hi)), d16, to + 8);
    };
    store(even, words[0]);
    store(odd, words[1]);
    for (int i = 0; i < 16; i += 4) {
      hn::StoreU(WidenBf16(df, words[0] + i), df, out + half * 16 + i);
      hn::StoreU(WidenBf16(df, words[1] + i), df, out + 32 + half * 16 + i);
    }
  }
}
#endif

// k in [k_begin, k_begin + 64) of row `row` as FP32.
HWY_INLINE void ExpandRow(const WeightRows& w, int64_t row, int64_t k, float* out) {
  const uint8_t* data = w.data + row * w.stride_bytes;
  switch (w.kind) {
    case WeightKind::kI4:
      ExpandBlock(data + k / 2, w.products + int64_t{w.index[row * w.groups + k / kGroup]} * 16,
                  out);
      break;
    case WeightKind::kBf16: {
      const hn::CappedTag<float, 4> d;
      for (int64_t i = 0; i < kBlockK; i += static_cast<int64_t>(hn::Lanes(d))) {
        hn::StoreU(WidenBf16(d, reinterpret_cast<const bf16_t*>(data) + k + i), d, out + i);
      }
      break;
    }
    case WeightKind::kF32:
      std::memcpy(out, data + k * 4, kBlockK * sizeof(float));
      break;
  }
}

void Expand(const WeightRows& w, int64_t num_rows, int64_t k_begin, int64_t k_count, int64_t column,
            int64_t num_columns, float* panel) {
  constexpr int64_t kTile = 16;
  alignas(64) float rows[kTile][kBlockK] = {};
  for (int64_t c = 0; c < num_columns; c += kTile) {
    const int64_t count = std::clamp<int64_t>(num_rows - c, 0, kTile);
    if (count < kTile) std::memset(rows, 0, sizeof(rows));
    for (int64_t k = 0; k < k_count; k += kBlockK) {
      for (int64_t r = 0; r < count; ++r) ExpandRow(w, c + r, k_begin + k, rows[r]);
      for (int64_t i = 0; i < kBlockK; ++i) {
        float* out = panel + (k + i) * kPanelColumns + column + c;
        for (int64_t r = 0; r < kTile; ++r) out[r] = rows[r][i];
      }
    }
  }
}

// kRows x kVectors vectors of sums stay in registers.
template <int kRows, int kVectors>
HWY_INLINE void PanelBlock(const float* a, int64_t lda, const float* panel, int64_t k, float* c,
                           int64_t ldc, bool accumulate) {
  const hn::CappedTag<float, 16> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  using V = hn::Vec<decltype(d)>;
  V acc[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) {
      acc[r][j] = accumulate ? hn::LoadU(d, c + r * ldc + j * lanes) : hn::Zero(d);
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    V b[kVectors];
    for (int j = 0; j < kVectors; ++j) b[j] = hn::LoadU(d, panel + i * kPanelColumns + j * lanes);
    for (int r = 0; r < kRows; ++r) {
      const auto x = hn::Set(d, a[r * lda + i]);
      for (int j = 0; j < kVectors; ++j) acc[r][j] = hn::MulAdd(x, b[j], acc[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) hn::StoreU(acc[r][j], d, c + r * ldc + j * lanes);
  }
}

template <int kRows>
HWY_NOINLINE void PanelRows(const float* a, int64_t lda, const float* panel, int64_t k, float* c,
                            int64_t ldc, bool accumulate) {
  // AVX-512 has registers for 6 x 4 sums, the others for 6 x 2.
  constexpr int kVectors = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL ? 4 : 2;
  const hn::CappedTag<float, 16> d;
  const int64_t step = kVectors * static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = 0; j < kPanelColumns; j += step) {
    PanelBlock<kRows, kVectors>(a, lda, panel + j, k, c + j, ldc, accumulate);
  }
}

void Panel(const float* a, int64_t lda, const float* panel, int64_t k, int64_t rows, float* c,
           int64_t ldc, bool accumulate) {
  int64_t r = 0;
  for (; r + 6 <= rows; r += 6) {
    PanelRows<6>(a + r * lda, lda, panel, k, c + r * ldc, ldc, accumulate);
  }
  for (; r + 2 <= rows; r += 2) {
    PanelRows<2>(a + r * lda, lda, panel, k, c + r * ldc, ldc, accumulate);
  }
  if (r < rows) PanelRows<1>(a + r * lda, lda, panel, k, c + r * ldc, ldc, accumulate);
}

// Adds a[0..64) . row[0..64) to `sum`, vector by vector.
template <class D>
HWY_INLINE void AddDot(D d, const float* a, const float* row, hn::Vec<D>* sum) {
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < kBlockK; i += 2 * lanes) {
    sum[0] = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, row + i), sum[0]);
    sum[1] = hn::MulAdd(hn::LoadU(d, a + i + lanes), hn::LoadU(d, row + i + lanes), sum[1]);
  }
}

// Weights that become operands a block at a time, for all tokens.
void DotI4(const WeightRows& w, int64_t num_rows, int64_t k, const float* a, int64_t lda, int64_t m,
           float* out, int64_t ldo) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  alignas(64) float expanded[kBlockK];
  for (int64_t r = 0; r < num_rows; ++r) {
    V sums[kMaxDotTokens][2];
    for (int64_t t = 0; t < m; ++t) sums[t][0] = sums[t][1] = hn::Zero(d);
    for (int64_t i = 0; i < k; i += kBlockK) {
      ExpandRow(w, r, i, expanded);
      for (int64_t t = 0; t < m; ++t) AddDot(d, a + t * lda + i, expanded, sums[t]);
    }
    for (int64_t t = 0; t < m; ++t) {
      out[t * ldo + r] = hn::GetLane(hn::SumOfLanes(d, hn::Add(sums[t][0], sums[t][1])));
    }
  }
}

template <class D>
HWY_INLINE hn::Vec<D> LoadWeights(D d, const bf16_t* w) {
  return WidenBf16(d, w);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadWeights(D d, const float* w) {
  return hn::LoadU(d, w);
}

// kRows rows at a time: enough sums to hide the latency of an addition, one token after the other
// while the rows are in the cache.
template <int kRows, class T>
HWY_INLINE void DotFloatRows(const T* w, int64_t stride, int64_t k, const float* a, int64_t lda,
                             int64_t m, float* out, int64_t ldo) {
  const hn::CappedTag<float, 16> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int64_t kLine = 64 / sizeof(T);  // weights of a line of the cache
  for (int64_t t = 0; t < m; ++t) {
    hn::Vec<decltype(d)> sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = hn::Zero(d);
    for (int64_t block = 0; block < k; block += kLine) {
      if (t == 0) {
        for (int r = 0; r < kRows; ++r) {
          __builtin_prefetch(w + r * stride + block + kPrefetchBytes / sizeof(T));
        }
      }
      for (int64_t i = block; i < block + kLine; i += lanes) {
        const auto x = hn::LoadU(d, a + t * lda + i);
        for (int r = 0; r < kRows; ++r) {
          sums[r] = hn::MulAdd(x, LoadWeights(d, w + r * stride + i), sums[r]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) out[t * ldo + r] = hn::GetLane(hn::SumOfLanes(d, sums[r]));
  }
}

template <class T>
HWY_INLINE void DotFloats(const WeightRows& w, int64_t num_rows, int64_t k, const float* a,
                          int64_t lda, int64_t m, float* out, int64_t ldo) {
  constexpr int kRows = 4;
  const auto* data = reinterpret_cast<const T*>(w.data);
  const int64_t stride = w.stride_bytes / static_cast<int64_t>(sizeof(T));
  int64_t r = 0;
  for (; r + kRows <= num_rows; r += kRows) {
    DotFloatRows<kRows>(data + r * stride, stride, k, a, lda, m, out + r, ldo);
  }
  for (; r < num_rows; ++r) {
    DotFloatRows<1>(data + r * stride, stride, k, a, lda, m, out + r, ldo);
  }
}

void Dot(const WeightRows& w, int64_t num_rows, int64_t k, const float* a, int64_t lda, int64_t m,
         float* out, int64_t ldo) {
  switch (w.kind) {
    case WeightKind::kI4:
      return DotI4(w, num_rows, k, a, lda, m, out, ldo);
    case WeightKind::kBf16:
      return DotFloats<bf16_t>(w, num_rows, k, a, lda, m, out, ldo);
    case WeightKind::kF32:
      return DotFloats<float>(w, num_rows, k, a, lda, m, out, ldo);
  }
}

// Value i of a run of n to its place; the tail of the last block is zeroed.
template <class ToFloat>
HWY_INLINE void LoadValues(int64_t n, bool split, float* out, const ToFloat& to_float) {
  const int64_t padded = (n + kBlockK - 1) / kBlockK * kBlockK;
  for (int64_t block = 0; block < padded; block += kBlockK) {
    const int64_t step = split ? kBlockK / 2 : 1;
    for (int64_t i = 0; i < kBlockK; i += 2) {
      float* pair = out + block + (split ? i / 2 : i);
      pair[0] = block + i < n ? to_float(block + i) : 0.0f;
      pair[step] = block + i + 1 < n ? to_float(block + i + 1) : 0.0f;
    }
  }
}

void LoadE4M3(const e4m3_t* x, int64_t n, bool split, float* out) {
  LoadValues(n, split, out, [x](int64_t i) { return E4M3ToFloat(x[i]); });
}
void LoadBf16(const bf16_t* x, int64_t n, bool split, float* out) {
  LoadValues(n, split, out, [x](int64_t i) { return Bf16ToFloat(x[i]); });
}
void LoadF32(const float* x, int64_t n, bool split, float* out) {
  LoadValues(n, split, out, [x](int64_t i) { return x[i]; });
}

void OrderQuery(const float* q, int64_t head_dim, float* out) {
  std::memcpy(out, q, static_cast<size_t>(head_dim) * sizeof(float));
}

void UnpackK(const uint8_t* codes, int64_t head_dim, float* panel) {
  uint8_t row[512];
  for (int64_t key = 0; key < kPageTokens; ++key) {
    UnpackKRow(codes + key * (head_dim / 2), static_cast<int>(head_dim), row);
    for (int64_t d = 0; d < head_dim; ++d) panel[d * kPanelColumns + key] = row[d];
  }
}

void UnpackV(const uint8_t* codes, int64_t head_dim, float* panels) {
  for (int64_t group = 0; group < kPageTokens / kVGroupTokens; ++group) {
    for (int64_t d = 0; d < head_dim; ++d) {
      const uint8_t* bytes = codes + (group * head_dim + d) * kVGroupBytes;
      float* out = panels + (d / kPanelColumns) * kPageTokens * kPanelColumns +
                   group * kVGroupTokens * kPanelColumns + d % kPanelColumns;
      for (int64_t b = 0; b < kVGroupBytes; ++b) {
        out[b * kPanelColumns] = bytes[b] & 0xF;
        out[(b + kVGroupBytes) * kPanelColumns] = static_cast<float>(bytes[b] >> 4);
      }
    }
  }
}

void PackProbs(const float* p, float* out) { std::memcpy(out, p, kPageTokens * sizeof(float)); }

constexpr GemmKernels<float> kKernels = {"FP32",  Expand,     Panel,   Dot,     LoadE4M3, LoadBf16,
                                         LoadF32, OrderQuery, UnpackK, UnpackV, PackProbs};

}  // namespace

const GemmKernels<float>* Kernels() { return &kKernels; }

}  // namespace fireq::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq::cpu {
HWY_EXPORT(Kernels);
const GemmKernels<float>& PortableKernels() { return *HWY_DYNAMIC_DISPATCH(Kernels)(); }
}  // namespace fireq::cpu
#endif
