// What follows the QKV GEMM: q/k norm, RoPE, CRS, Hadamard, Q to E4M3, K and V to INT4 pages.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/formats/bf16.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

// Pointers are device memory; null where optional and absent.
struct RopeKvWriteParams {
  const bf16_t* qkv = nullptr;           // bf16 [T, (H + 2 Hk) Dh]
  const int32_t* query_start = nullptr;  // i32 [S + 1]
  const int32_t* context_len = nullptr;  // i32 [S], this step's tokens included
  const int32_t* page_table = nullptr;   // i32 [S, max_pages]
  const float* rope_cos = nullptr;       // f32 [L, Dh/2]; llama3 scaling and the like are inside
  const float* rope_sin = nullptr;       // f32 [L, Dh/2]
  const float* q_norm = nullptr;         // f32 [Dh], optional: x / rms(x) * weight
  const float* k_norm = nullptr;         // f32 [Dh], optional
  const float* crs_q = nullptr;          // f32 [Hk, Dh], optional
  const float* crs_k = nullptr;          // f32 [Hk, Dh], optional
  const float* key_shift = nullptr;      // f32 [Hk, Dh], optional: subtracted from K
  float norm_eps = 0.0f;
  bool hadamard = false;  // Sylvester's, over the head, times 1 / sqrt(Dh); Q and K
  KvGrid grid = KvGrid::kAsymmetric;
  uint8_t* q = nullptr;       // e4m3 [T, H, Dh]
  float* scale_q = nullptr;   // f32 [T, H]
  uint8_t* pages = nullptr;   // KvPageLayout pages of one layer
  int32_t num_sequences = 0;  // S
  int32_t max_query_len = 0;  // no sequence's run of tokens is longer
  int32_t num_heads = 0;      // H
  int32_t kv_heads = 0;       // Hk
  int32_t max_pages = 0;
  int32_t heads_per_cta = 1;  // of long runs; LaunchRopeKvWrite sets it
  bool programmatic = false;  // may start before the kernel in front has ended
};

// In that order, in FP32: norm, RoPE of the pairs (f, f + Dh/2), CRS, shift, Hadamard, quantisation
// as formats/act_e4m3.h and formats/kv_i4.h say. Tokens of the pages that are not in this step keep
// every bit. head_dim 64 or 128.
// Errors: kUnsupported (head_dim, float grid), kCuda. Asynchronous on `stream`.
void LaunchRopeKvWrite(const RopeKvWriteParams& params, int head_dim, cudaStream_t stream);

}  // namespace fireq::sm90
