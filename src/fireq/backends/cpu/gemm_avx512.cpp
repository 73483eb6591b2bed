// BF16 operands on AVX512-BF16: vdpbf16ps multiplies pairs of BF16 and adds them to FP32 sums, at
// twice the rate of FP32 multiply-adds. The one file with instructions of one processor family.
#include "fireq/backends/cpu/gemm_kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

// g++ 12 warns about the deliberately undefined registers inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cstring>

#define FIREQ_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define FIREQ_AVX512_INLINE FIREQ_AVX512 __attribute__((always_inline)) inline

namespace fireq::cpu {
namespace {

FIREQ_AVX512_INLINE __m512i LoadCodes(const uint8_t* codes) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
}

// The 16 products of a group, twice, so that bit 4 of an index does not matter.
FIREQ_AVX512_INLINE __m512i LoadProducts(const WeightRows& w, int64_t row, int64_t group) {
  const uint16_t* products = w.products + int64_t{w.index[row * w.groups + group]} * 16;
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(products)));
}

FIREQ_AVX512_INLINE __m512bh AsBf16(__m512i v) { return reinterpret_cast<__m512bh>(v); }

// In place: row i, dword j <-> row j, dword i.
FIREQ_AVX512_INLINE void Transpose16(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 a + j], lane quarter q: rows 4 a .. 4 a + 3 of column 4 q + j.
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xDD);
    t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xDD);
  }
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x88);
    r[8 + j] = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xDD);
    r[4 + j] = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x88);
    r[12 + j] = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xDD);
  }
}

// 16 columns x 32 values of k to 16 dword rows of a panel.
FIREQ_AVX512_INLINE void StoreTransposed(__m512i* rows, bf16_t* panel) {
  Transpose16(rows);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(panel + i * kPanelColumns * 2, rows[i]);
}

FIREQ_AVX512 void ExpandI4(const WeightRows& w, int64_t num_rows, int64_t k, bf16_t* panel) {
  __m512i even[16];
  __m512i odd[16];
  for (int r = 0; r < 16; ++r) {
    if (r < num_rows) {
      const __m512i codes = LoadCodes(w.data + r * w.stride_bytes + k / 2);
      const __m512i products = LoadProducts(w, r, k / 128);
      even[r] = _mm512_permutexvar_epi16(codes, products);
      odd[r] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), products);
    } else {
      even[r] = odd[r] = _mm512_setzero_si512();
    }
  }
  StoreTransposed(even, panel);
  StoreTransposed(odd, panel + 16 * kPanelColumns * 2);
}

FIREQ_AVX512 void ExpandBf16(const WeightRows& w, int64_t num_rows, int64_t k, bf16_t* panel) {
  for (int64_t half = 0; half < 2; ++half) {
    __m512i rows[16];
    for (int r = 0; r < 16; ++r) {
      rows[r] = r < num_rows ? _mm512_loadu_si512(w.data + r * w.stride_bytes + (k + half * 32) * 2)
                             : _mm512_setzero_si512();
    }
    StoreTransposed(rows, panel + half * 16 * kPanelColumns * 2);
  }
}

FIREQ_AVX512 void Expand(const WeightRows& w, int64_t num_rows, int64_t k_begin, int64_t k_count,
                         int64_t column, int64_t num_columns, bf16_t* panel) {
  for (int64_t c = 0; c < num_columns; c += 16) {
    const int64_t rows = num_rows - c < 16 ? num_rows - c : 16;
    const WeightRows from = rows > 0 ? w.From(c) : w;
    for (int64_t k = 0; k < k_count; k += kBlockK) {
      bf16_t* out = panel + k * kPanelColumns + (column + c) * 2;
      if (w.kind == WeightKind::kI4) {
        ExpandI4(from, rows, k_begin + k, out);
      } else {
        ExpandBf16(from, rows, k_begin + k, out);
      }
    }
  }
}

template <int kRows>
FIREQ_AVX512 void PanelRows(const bf16_t* a, int64_t lda, const bf16_t* panel, int64_t k, float* c,
                            int64_t ldc, bool accumulate) {
  __m512 acc[kRows][4];
  for (int r = 0; r < kRows; ++r) {
    for (int64_t j = 0; j < 4; ++j) {
      acc[r][j] = accumulate ? _mm512_loadu_ps(c + r * ldc + j * 16) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; i += 2) {
    const bf16_t* b = panel + i * kPanelColumns;
    const __m512bh b0 = AsBf16(_mm512_loadu_si512(b));
    const __m512bh b1 = AsBf16(_mm512_loadu_si512(b + 32));
    const __m512bh b2 = AsBf16(_mm512_loadu_si512(b + 64));
    const __m512bh b3 = AsBf16(_mm512_loadu_si512(b + 96));
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      int32_t pair = 0;
      std::memcpy(&pair, a + r * lda + i, sizeof(pair));
      const __m512bh x = AsBf16(_mm512_set1_epi32(pair));
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], x, b0);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], x, b1);
      acc[r][2] = _mm512_dpbf16_ps(acc[r][2], x, b2);
      acc[r][3] = _mm512_dpbf16_ps(acc[r][3], x, b3);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int64_t j = 0; j < 4; ++j) _mm512_storeu_ps(c + r * ldc + j * 16, acc[r][j]);
  }
}

void Panel(const bf16_t* a, int64_t lda, const bf16_t* panel, int64_t k, int64_t rows, float* c,
           int64_t ldc, bool accumulate) {
  using Function = void (*)(const bf16_t*, int64_t, const bf16_t*, int64_t, float*, int64_t, bool);
  static constexpr Function kTails[] = {PanelRows<1>, PanelRows<2>, PanelRows<3>, PanelRows<4>,
                                        PanelRows<5>};
  int64_t r = 0;
  for (; r + 6 <= rows; r += 6) {
    PanelRows<6>(a + r * lda, lda, panel, k, c + r * ldc, ldc, accumulate);
  }
  if (r < rows) {
    kTails[rows - r - 1](a + r * lda, lda, panel, k, c + r * ldc, ldc, accumulate);
  }
}

// kRows rows of INT4 weights against kTokens rows of activations.
template <int kRows, int kTokens>
FIREQ_AVX512 void DotI4(const WeightRows& w, int64_t k, const bf16_t* a, int64_t lda, float* out,
                        int64_t ldo) {
  __m512 acc[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int m = 0; m < kTokens; ++m) acc[r][m] = _mm512_setzero_ps();
  }
  __m512i products[kRows];
  for (int64_t i = 0; i < k; i += kBlockK) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      if (i % 128 == 0) products[r] = LoadProducts(w, r, i / 128);
      const __m512i codes = LoadCodes(w.data + r * w.stride_bytes + i / 2);
      const __m512i even = _mm512_permutexvar_epi16(codes, products[r]);
      const __m512i odd = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), products[r]);
#pragma GCC unroll 8
      for (int m = 0; m < kTokens; ++m) {
        const bf16_t* x = a + m * lda + i;
        acc[r][m] = _mm512_dpbf16_ps(acc[r][m], AsBf16(even), AsBf16(_mm512_loadu_si512(x)));
        acc[r][m] = _mm512_dpbf16_ps(acc[r][m], AsBf16(odd), AsBf16(_mm512_loadu_si512(x + 32)));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int m = 0; m < kTokens; ++m) out[m * ldo + r] = _mm512_reduce_add_ps(acc[r][m]);
  }
}

template <int kRows, int kTokens>
FIREQ_AVX512 void DotBf16(const WeightRows& w, int64_t k, const bf16_t* a, int64_t lda, float* out,
                          int64_t ldo) {
  __m512 acc[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int m = 0; m < kTokens; ++m) acc[r][m] = _mm512_setzero_ps();
  }
  for (int64_t i = 0; i < k; i += 32) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m512i v = _mm512_loadu_si512(w.data + r * w.stride_bytes + i * 2);
#pragma GCC unroll 8
      for (int m = 0; m < kTokens; ++m) {
        acc[r][m] =
            _mm512_dpbf16_ps(acc[r][m], AsBf16(v), AsBf16(_mm512_loadu_si512(a + m * lda + i)));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int m = 0; m < kTokens; ++m) out[m * ldo + r] = _mm512_reduce_add_ps(acc[r][m]);
  }
}

// Rows of weights taken together: enough independent sums to hide the latency of vdpbf16ps.
template <int kTokens>
inline constexpr int kDotRows = kTokens <= 2 ? 4 : (kTokens <= 4 ? 2 : 1);

template <int kTokens>
void DotTokens(const WeightRows& w, int64_t num_rows, int64_t k, const bf16_t* a, int64_t lda,
               float* out, int64_t ldo) {
  constexpr int kRows = kDotRows<kTokens>;
  const bool i4 = w.kind == WeightKind::kI4;
  int64_t r = 0;
  for (; r + kRows <= num_rows; r += kRows) {
    (i4 ? DotI4<kRows, kTokens> : DotBf16<kRows, kTokens>)(w.From(r), k, a, lda, out + r, ldo);
  }
  for (; r < num_rows; ++r) {
    (i4 ? DotI4<1, kTokens> : DotBf16<1, kTokens>)(w.From(r), k, a, lda, out + r, ldo);
  }
}

void Dot(const WeightRows& w, int64_t num_rows, int64_t k, const bf16_t* a, int64_t lda, int64_t m,
         float* out, int64_t ldo) {
  using Function =
      void (*)(const WeightRows&, int64_t, int64_t, const bf16_t*, int64_t, float*, int64_t);
  static constexpr Function kByTokens[kMaxDotTokens] = {DotTokens<1>, DotTokens<2>, DotTokens<3>,
                                                        DotTokens<4>, DotTokens<5>, DotTokens<6>,
                                                        DotTokens<7>, DotTokens<8>};
  kByTokens[m - 1](w, num_rows, k, a, lda, out, ldo);
}

// Words in natural order to split order: even k of a block of 64 first.
FIREQ_AVX512_INLINE void StoreBlock(__m512i first, __m512i second, bool split, bf16_t* out) {
  if (split) {
    const __m512i low = _mm512_set1_epi32(0xFFFF);
    // Evens of each 32: the low words of dwords; cvtepi32_epi16 keeps them in order.
    const __m256i even0 = _mm512_cvtepi32_epi16(_mm512_and_si512(first, low));
    const __m256i even1 = _mm512_cvtepi32_epi16(_mm512_and_si512(second, low));
    const __m256i odd0 = _mm512_cvtepi32_epi16(_mm512_srli_epi32(first, 16));
    const __m256i odd1 = _mm512_cvtepi32_epi16(_mm512_srli_epi32(second, 16));
    first = _mm512_inserti64x4(_mm512_castsi256_si512(even0), even1, 1);
    second = _mm512_inserti64x4(_mm512_castsi256_si512(odd0), odd1, 1);
  }
  _mm512_storeu_si512(out, first);
  _mm512_storeu_si512(out + 32, second);
}

// 32 codes to BF16, exactly: normal codes shift into place, the 8 subnormal ones are looked up.
FIREQ_AVX512_INLINE __m512i E4M3ToBf16(__m256i codes) {
  const __m512i words = _mm512_cvtepu8_epi16(codes);
  const __m512i magnitude = _mm512_and_si512(words, _mm512_set1_epi16(0x7F));
  // Normal codes: exponent + 120 in BF16's place. Subnormal codes 0..7 are m * 2^-9.
  const __m512i normal =
      _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
  // BF16 of 0..7 * 2^-9.
  const __m512i small =
      _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                       0x3C60, 0x3C40, 0x3C20, 0x3C00, 0x3BC0, 0x3B80, 0x3B00, 0);
  const __m512i subnormal = _mm512_permutexvar_epi16(magnitude, small);
  __m512i value = _mm512_mask_mov_epi16(
      normal, _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8)), subnormal);
  value = _mm512_mask_mov_epi16(value, _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7F)),
                                _mm512_set1_epi16(0x7FC0));
  const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(words, _mm512_set1_epi16(0x80)), 8);
  return _mm512_or_si512(value, sign);
}

FIREQ_AVX512 void LoadE4M3(const e4m3_t* x, int64_t n, bool split, bf16_t* out) {
  for (int64_t i = 0; i < n; i += kBlockK) {
    const uint64_t left = n - i >= 64 ? ~uint64_t{0} : (uint64_t{1} << (n - i)) - 1;
    const __m512i codes = _mm512_maskz_loadu_epi8(left, x + i);
    StoreBlock(E4M3ToBf16(_mm512_castsi512_si256(codes)),
               E4M3ToBf16(_mm512_extracti64x4_epi64(codes, 1)), split, out + i);
  }
}

FIREQ_AVX512 void LoadBf16(const bf16_t* x, int64_t n, bool split, bf16_t* out) {
  for (int64_t i = 0; i < n; i += kBlockK) {
    const uint64_t left = n - i >= 64 ? ~uint64_t{0} : (uint64_t{1} << (n - i)) - 1;
    const __m512i first = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(left), x + i);
    const __m512i second = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(left >> 32), x + i + 32);
    StoreBlock(first, second, split, out + i);
  }
}

// d and d + 16 of a run of 32 share a byte of K (formats/kv_page.h), so they are a pair here.
void OrderQuery(const float* q, int64_t head_dim, bf16_t* out) {
  for (int64_t run = 0; run < head_dim; run += 32) {
    const int64_t half = (head_dim - run < 32 ? head_dim - run : 32) / 2;
    for (int64_t b = 0; b < half; ++b) {
      out[run + 2 * b] = FloatToBf16(q[run + b]);
      out[run + 2 * b + 1] = FloatToBf16(q[run + half + b]);
    }
  }
}

FIREQ_AVX512_INLINE __m512i CodeValues() {
  // BF16 of 0..15, twice.
  const __m256i values =
      _mm256_set_epi16(0x4170, 0x4160, 0x4150, 0x4140, 0x4130, 0x4120, 0x4110, 0x4100, 0x40E0,
                       0x40C0, 0x40A0, 0x4080, 0x4040, 0x4000, 0x3F80, 0);
  return _mm512_broadcast_i64x4(values);
}

// A byte in every dword -> low nibble in the low word, high nibble in the high word, as BF16.
FIREQ_AVX512_INLINE __m512i NibblePair(__m512i bytes, __m512i values) {
  const __m512i index = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
  return _mm512_permutexvar_epi16(_mm512_and_si512(index, _mm512_set1_epi32(0x000F000F)), values);
}

FIREQ_AVX512 void UnpackK(const uint8_t* codes, int64_t head_dim, bf16_t* panel) {
  const __m512i values = CodeValues();
  const int64_t row_bytes = head_dim / 2;
  for (int64_t key = 0; key < kPageTokens; key += 16) {
    for (int64_t b = 0; b < row_bytes; b += 64) {
      const int64_t left = row_bytes - b < 64 ? row_bytes - b : 64;
      const __mmask16 mask = static_cast<__mmask16>((1u << (left / 4)) - 1);
      __m512i rows[16];
      for (int r = 0; r < 16; ++r) {
        rows[r] = _mm512_maskz_loadu_epi32(mask, codes + (key + r) * row_bytes + b);
      }
      Transpose16(rows);  // rows[j]: bytes 4 j .. 4 j + 3 of 16 keys
      for (int64_t j = 0; j < left / 4; ++j) {
        for (int byte = 0; byte < 4; ++byte) {
          const __m512i bytes = _mm512_and_si512(
              _mm512_srli_epi32(rows[j], static_cast<unsigned>(8 * byte)), _mm512_set1_epi32(0xFF));
          bf16_t* out = panel + ((b + 4 * j + byte) * kPanelColumns + key) * 2;
          _mm512_storeu_si512(out, NibblePair(bytes, values));
        }
      }
    }
  }
}

FIREQ_AVX512 void UnpackV(const uint8_t* codes, int64_t head_dim, bf16_t* panels) {
  const __m512i values = CodeValues();
  for (int64_t group = 0; group < kPageTokens / 16; ++group) {
    for (int64_t d = 0; d < head_dim; d += 8) {
      // 8 bytes of each of 8 d: transposed to 8 d of each byte.
      const __m512i block = _mm512_loadu_si512(codes + (group * head_dim + d) * 8);
      bf16_t* panel = panels + (d / kPanelColumns) * kPageTokens * kPanelColumns;
      for (int b = 0; b < 8; ++b) {
        const __m512i shifted = _mm512_srli_epi64(block, static_cast<unsigned>(8 * b));
        const __m256i bytes =
            _mm256_and_si256(_mm512_cvtepi64_epi32(shifted), _mm256_set1_epi32(0xFF));
        const __m512i pair = NibblePair(_mm512_castsi256_si512(bytes), values);
        bf16_t* out = panel + ((group * 8 + b) * kPanelColumns + d % kPanelColumns) * 2;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(pair));
      }
    }
  }
}

FIREQ_AVX512 void PackProbs(const float* p, bf16_t* out) {
  for (int64_t i = 0; i < kPageTokens; i += 16) {
    const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(_mm256_loadu_ps(p + i)), 16);
    const __m256i high = _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(p + i + 8)),
                                          _mm256_set1_epi32(static_cast<int32_t>(0xFFFF0000)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_or_si256(low, high));
  }
}

constexpr GemmKernels<bf16_t> kKernels = {"AVX512-BF16", Expand,   Panel,    Dot,
                                          LoadE4M3,      LoadBf16, nullptr,  OrderQuery,
                                          UnpackK,       UnpackV,  PackProbs};

}  // namespace

const GemmKernels<bf16_t>* Avx512Bf16Kernels() {
  const bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                         __builtin_cpu_supports("avx512bf16");
  return supported ? &kKernels : nullptr;
}

}  // namespace fireq::cpu

#else

namespace fireq::cpu {
const GemmKernels<bf16_t>* Avx512Bf16Kernels() { return nullptr; }
}  // namespace fireq::cpu

#endif
