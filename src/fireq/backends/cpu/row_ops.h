// Elementwise work on one row, vectorised with Highway: norms, quantisation, epilogues, softmax.
//
// Rows are FP32 scratch or borders (BF16 or FP32). Everything is FP32 inside and rounds where the
// served arithmetic says so. No function allocates.
#pragma once

#include <cstdint>

#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"

namespace fireq::cpu {

// What happens to a row of FP32 sums of a linear layer: y = sums * scale + bias, rounded to the
// border, then added to the residual and rounded again.
struct EpilogueRow {
  float scale = 1.0f;
  const float* bias = nullptr;     // may be null
  const void* residual = nullptr;  // may be null; of y's type
  bool bf16 = false;               // y and residual are BF16, else F32
  void* y = nullptr;
};

// 64 keys of the online softmax of one row of queries.
struct SoftmaxTile {
  const float* key_scale;    // [64] s_k; null: 1
  const float* key_zero;     // [64] z_k; null: 0
  const float* value_scale;  // [64] 256 s_v / r
  const float* value_zero;   // [64] z_v; null: 0
  float query_scale;         // s_q log2(e) / sqrt(Dh)
  float query_sum;           // sum of the query's codes
  int64_t num_keys;          // keys that the row sees, 1..64; the others get probability 0
  bool round_probs;          // P' = E4M3(.)
};

// Running state of one row.
struct SoftmaxRow {
  float max;    // m: an integer in log2 units
  float sum;    // l
  float zeros;  // sum of P' z_v
};

struct RowOps {
  const char* target;  // "AVX3"

  void (*bf16_to_f32)(const bf16_t* x, int64_t n, float* out);
  void (*f32_to_bf16)(const float* x, int64_t n, bf16_t* out);
  void (*e4m3_to_f32)(const e4m3_t* x, int64_t n, float* out);
  // max |x|, NaN if any x is NaN.
  float (*absmax)(const float* x, int64_t n);
  // codes = E4M3(x * inv_scale) and, unless null, their sums over groups of 128.
  void (*quantize)(const float* x, int64_t n, float inv_scale, e4m3_t* codes, float* sums);
  // y = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  // h = silu(gate) * up; in place of gate is fine.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* h);
  // x = x * scale + bias (may be null), in place
  void (*scale_bias)(float* x, int64_t n, float scale, const float* bias);
  void (*epilogue)(const float* sums, int64_t n, const EpilogueRow& row);
  // Scores s[64] (sums of products of codes) become P' in place; `row` is brought up to date.
  // Returns 2^(old max - new max), what earlier sums must be multiplied by.
  float (*softmax)(float* s, const SoftmaxTile& tile, SoftmaxRow* row);
  // x *= scale
  void (*scale)(float* x, int64_t n, float scale);
  // out = (x - shift) * scale
  void (*shift_scale)(const float* x, int64_t n, float shift, float scale, float* out);
  // x = x0 cos - x1 sin, x1 cos + x0 sin over the pairs (f, f + n / 2), in place
  void (*rope)(float* x, const float* cos, const float* sin, int64_t n);
  // x *= factor, elementwise
  void (*multiply)(float* x, const float* factor, int64_t n);
};

const RowOps& Rows();

}  // namespace fireq::cpu
