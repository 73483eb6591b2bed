// The *exact* product in integers: E4M3 activations as three digits against INT4 codes.
//
// x8 * 2^9 is an integer: d0 + 2^7 d1 + 2^14 d2 with d0, d1 in 0..127 and d2 in -14..14. One
// instruction multiplies 32 bytes of codes by 32 digits and adds pairs, and a digit's sums over a
// group of 128 fit 16 bits, so a lane's part of sum_k x8 (q - z) is an exact integer before it
// becomes FP32. Codes never turn into floats: decode streams all weights through this loop once a
// token, and the loop must cost less than reading them.
#pragma once

#include "fireq/backends/cpu/gemm_kernels.h"

namespace fireq::cpu {

inline constexpr int64_t kDigits = 3;
inline constexpr int64_t kDigitLanes = 8;  // 32-bit lanes of the widest vector used

// One row of activations, padded to k values, a multiple of kBlockK.
struct DigitRow {
  int8_t* digits = nullptr;  // [k / 64][kDigits][64], each 64 in split order
  int32_t* sums = nullptr;   // [ceil(k / 128)][kDigitLanes]: sums over k of x8 * 2^9, by lane
  float* poison = nullptr;   // 0; NaN if one of the codes is
};

struct DigitKernels {
  // n codes to a row; the rest up to k becomes zero.
  void (*load)(const e4m3_t* x, int64_t n, int64_t k, const DigitRow& out);
  // out[row] = sum_k x[k] (q - z) s of rows of INT4 weights.
  void (*dot)(const WeightRows& w, int64_t num_rows, int64_t k, const DigitRow& x, float* out);
};

// Null where there are no vectors of bytes.
const DigitKernels* Digits();

}  // namespace fireq::cpu
