// The inner loops of linear layers and attention, over one operand type, as a table of functions.
//
// Two implementations: BF16 operands on AVX512-BF16 (gemm_avx512.cpp), FP32 operands on whatever
// Highway finds (gemm_portable.cpp). Codes of activations, INT4 products, INT4 codes of K and V and
// E4M3 probabilities are exact in either, and sums are FP32, so both compute the same arithmetic.
// Where the second serves, few rows of codes are multiplied as integers (digit_kernels.h).
//
// Order along K. INT4 rows are read as blocks of 64 codes = 32 bytes; the low nibbles come out
// first, so the operand order inside a block is k = 0, 2, .. 62, 1, 3, .. 63 ("split order"), and
// the activations that meet INT4 weights are stored in split order too. Float rows keep their
// order. K is padded to a multiple of 64 with zeros in the activations.
#pragma once

#include <cstdint>

#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"

namespace fireq::cpu {

inline constexpr int64_t kBlockK = 64;        // codes of one look-up step; K is padded to it
inline constexpr int64_t kPanelColumns = 64;  // output columns of one panel
inline constexpr int64_t kPageTokens = 64;    // keys of one attention tile
inline constexpr int64_t kMaxDotTokens = 8;   // `dot` takes up to as many activation rows

// `dot` reads weights from memory, once: how far ahead of itself (rows lie one after the other).
inline constexpr int64_t kPrefetchBytes = 4096;

enum class WeightKind : uint8_t { kI4, kBf16, kF32 };

// Consecutive rows of one weight matrix.
struct WeightRows {
  WeightKind kind = WeightKind::kI4;
  const uint8_t* data = nullptr;       // codes or floats; K padded to kBlockK in every row
  int64_t stride_bytes = 0;            // from row to row
  const uint16_t* index = nullptr;     // kI4: ProductRow a group, [rows, groups]
  int64_t groups = 0;                  // kI4
  const uint16_t* products = nullptr;  // kI4: ProductTable::data()

  WeightRows From(int64_t row) const {
    WeightRows out = *this;
    out.data += row * stride_bytes;
    out.index += row * groups;
    return out;
  }
};

// Panels hold 64 columns of the right operand: T = bf16_t: [k/2][64][2]; T = float: [k][64].
template <class T>
struct GemmKernels {
  const char* name;

  // Rows [0, num_rows) of `w`, k in [k_begin, k_begin + k_count), into columns [column, column +
  // num_columns) of a panel; columns past num_rows become zero. k_begin and k_count are multiples
  // of 64, column and num_columns of 16.
  void (*expand)(const WeightRows& w, int64_t num_rows, int64_t k_begin, int64_t k_count,
                 int64_t column, int64_t num_columns, T* panel);

  // c[rows][64] (row stride ldc) = or += a[rows][k] (row stride lda) * panel; k even.
  void (*panel)(const T* a, int64_t lda, const T* panel, int64_t k, int64_t rows, float* c,
                int64_t ldc, bool accumulate);

  // out[m][row] = sum_k a[m][k] * w[row][k]; 1 <= m <= kMaxDotTokens, out row stride ldo.
  void (*dot)(const WeightRows& w, int64_t num_rows, int64_t k, const T* a, int64_t lda, int64_t m,
              float* out, int64_t ldo);

  // Activations to operands: n values; the rest up to a multiple of 64 becomes zero.
  void (*load_e4m3)(const e4m3_t* x, int64_t n, bool split, T* out);
  void (*load_bf16)(const bf16_t* x, int64_t n, bool split, T* out);
  // Null for BF16 operands, which would round them.
  void (*load_f32)(const float* x, int64_t n, bool split, T* out);

  // One head of Q to the order in which unpack_k leaves d.
  void (*order_query)(const float* q, int64_t head_dim, T* out);
  // INT4 codes of a page's head to panels: K [head_dim] x 64 keys; V 64 keys x [head_dim], as
  // ceil(head_dim / 64) panels, keys in the order of pack_probs.
  void (*unpack_k)(const uint8_t* codes, int64_t head_dim, T* panel);
  void (*unpack_v)(const uint8_t* codes, int64_t head_dim, T* panels);
  // 64 probabilities (exact in T) in the order in which unpack_v leaves keys.
  void (*pack_probs)(const float* p, T* out);
};

// Null where the processor or the compiler has no AVX512-BF16.
const GemmKernels<bf16_t>* Avx512Bf16Kernels();

const GemmKernels<float>& PortableKernels();

}  // namespace fireq::cpu
