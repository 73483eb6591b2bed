// The stored form of a quantised linear weight, in logical order (what a checkpoint holds).
//
//   w_hat[n,k] = (q[n,k] - z[n,g]) * s[n,g] / t,   g = k / 128
//   q codes 0..15, two a byte along K (low nibble = even k): [N, ceil(K/2)]
//   s E4M3 of either sign, never zero or NaN: [N, ceil(K/128)]; the last group may be short
//   z 0..15: [N, ceil(K/128)];  t a power of two, one a matrix
// The tile order of a kernel is made from this at load and belongs to that kernel.
// Source: docs/SERVED_ARITHMETIC.md, "Weights".
#pragma once

#include <cstdint>

#include "fireq/base/math.h"
#include "fireq/formats/e4m3.h"
#include "fireq/formats/int4.h"

namespace fireq {

struct WeightI4Layout {
  int64_t n = 0;  // output rows
  int64_t k = 0;  // input columns

  FIREQ_HD constexpr int64_t groups() const { return CeilDiv<int64_t>(k, kGroup); }
  FIREQ_HD constexpr int64_t code_bytes_per_row() const { return CeilDiv<int64_t>(k, 2); }
  FIREQ_HD constexpr int64_t code_bytes() const { return n * code_bytes_per_row(); }
  FIREQ_HD constexpr int64_t scale_bytes() const { return n * groups(); }
};

// Which of the two products of the served arithmetic a GEMM computes.
enum class Products : uint8_t {
  kServed,  // kExact for fewer than kTableMinTokens tokens in the call, kTable from there
  kTable,   // the operand is E4M3((q - z) * s)
  kExact,   // the operand is q; scale and zero point act outside in FP32
};

// M_table: from how many tokens in one call `served` means the table.
inline constexpr int64_t kTableMinTokens = 65;

constexpr Products ResolveProducts(Products products, int64_t num_tokens) {
  if (products != Products::kServed) return products;
  return num_tokens < kTableMinTokens ? Products::kExact : Products::kTable;
}

// The operand that multiplies an activation code, before 1/t: exact in FP32 either way.
FIREQ_HD constexpr float ExactProduct(int code, int zero, float scale) {
  return static_cast<float>(code - zero) * scale;
}
FIREQ_HD constexpr float TableProduct(int code, int zero, float scale) {
  return RoundToE4M3(ExactProduct(code, zero, scale));
}

}  // namespace fireq
