// The *exact* product in integers: E4M3 activations as three digits against INT4 codes.
//
// x8 * 2^9 is an integer: d0 + 2^7 d1 + 2^14 d2 with d0, d1 in 0..127 and d2 in -14..14. One
// instruction multiplies 32 bytes of codes by 32 digits and adds pairs, and a digit's sums over a
// group of 128 fit 16 bits, so a lane's part of sum_k x8 (q - z) is an exact integer before it
// becomes FP32. Codes never turn into floats: decode streams all weights through this loop once a
// token, and the loop must cost less than reading them.
#pragma once

#include "fireq/backends/cpu/gemm_kernels.h"
#include "fireq/base/math.h"
#include "fireq/formats/int4.h"

namespace fireq::cpu {

inline constexpr int64_t kDigits = 3;
inline constexpr int64_t kDigitLanes = 8;  // 32-bit lanes of the widest vector used

// One row of activations, padded to k values, a multiple of kBlockK.
struct DigitRow {
  int8_t* digits = nullptr;  // [k / 64][kDigits][64], each 64 in the order of the codes
  int32_t* zero_sums =
      nullptr;              // [ceil(k / 128)][16][kDigitLanes]: z times sum of x8 * 2^9, by lane
  float* poison = nullptr;  // 0; NaN if one of the codes is

  static constexpr int64_t NumZeroSums(int64_t k) {
    return CeilDiv<int64_t>(k, kGroup) * (kCodeMax + 1) * kDigitLanes;
  }
  static constexpr int64_t SizeBytes(int64_t k) {
    return AlignUp<int64_t>(k * kDigits + (NumZeroSums(k) + 1) * 4, 64);
  }
  // In SizeBytes(k) bytes of memory.
  static DigitRow In(int8_t* bytes, int64_t k) {
    auto* sums = reinterpret_cast<int32_t*>(bytes + k * kDigits);
    return {bytes, sums, reinterpret_cast<float*>(sums + NumZeroSums(k))};
  }
};

// Which code is in the low nibble of byte b of a block of 64, and which in the high one.
enum class DigitOrder : uint8_t {
  kSplit,  // weights: 2 b and 2 b + 1
  kRuns,   // K: d = 32 (b / 16) + b % 16 and the same + 16 (formats/kv_page.h)
};

struct DigitKernels {
  // n codes to a row; the rest up to k becomes zero.
  void (*load)(const e4m3_t* x, int64_t n, int64_t k, DigitOrder order, const DigitRow& out);
  // out[row] = sum_k x[k] (q - z) s of rows of INT4 weights.
  void (*dot)(const WeightRows& w, int64_t num_rows, int64_t k, const DigitRow& x, float* out);
  // out[key] = sum_d query[d] q of a page's first keys, 0 of the others; head_dim a multiple of 64.
  void (*scores)(const uint8_t* codes, int64_t num_keys, int64_t head_dim, const DigitRow& query,
                 float* out);
  // sums[d] += sum over the 64 keys of p[key] q; p are E4M3 values.
  void (*values)(const uint8_t* codes, int64_t head_dim, const float* p, float* sums);
};

// Null where there are no vectors of bytes.
const DigitKernels* Digits();

}  // namespace fireq::cpu
