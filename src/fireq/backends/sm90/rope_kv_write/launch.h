// From the QKV GEMM's output to what attention reads, in one pass: optional q/k norm, RoPE, CRS,
// optional Hadamard; Q to E4M3 with a scale a token and head, K and V to INT4 in their pages.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/formats/bf16.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

// All pointers: device memory, 16-byte aligned. Lengths and tables are read on the device, so one
// captured launch serves every step of the same num_tokens and num_sequences.
struct RopeKvWriteParams {
  const bf16_t* qkv = nullptr;           // bf16 [T, (H + 2 Hk) Dh]
  const int32_t* positions = nullptr;    // i32 [T], rows of the RoPE tables
  const int32_t* query_start = nullptr;  // i32 [S + 1]
  const int32_t* context_len = nullptr;  // i32 [S], the step's tokens included
  const int32_t* page_table = nullptr;   // i32 [S, max_pages]
  const float* rope_cos = nullptr;       // f32 [L, Dh/2]
  const float* rope_sin = nullptr;       // f32 [L, Dh/2]
  const float* q_norm = nullptr;         // f32 [Dh] or null
  const float* k_norm = nullptr;         // f32 [Dh] or null
  const float* crs_q = nullptr;          // f32 [Hk, Dh] or null
  const float* crs_k = nullptr;          // f32 [Hk, Dh] or null
  uint8_t* q = nullptr;                  // e4m3 [T, H, Dh]
  float* scale_q = nullptr;              // f32 [T, H]
  uint8_t* pages = nullptr;              // of `layout`
  KvPageLayout layout;                   // not kFloat; head_dim 64 or 128
  int32_t num_tokens = 0;                // T
  int32_t num_sequences = 0;             // S
  int32_t num_heads = 0;                 // H, a multiple of layout.kv_heads
  int32_t max_pages = 0;
  float norm_eps = 0.0f;
  bool hadamard = false;
};

// Asynchronous on `stream`, no workspace; programmatic dependent launch is not used. One CTA owns
// the tokens of a sequence that share a group of 16 in the cache, so no nibble of a neighbour's is
// ever written. Errors: kUnsupported (head_dim, kFloat), kShapeMismatch (heads), kCuda.
// Source: served arithmetic, "K and V", "Token quantisation"; formats/kv_page.h.
void LaunchRopeKvWrite(const RopeKvWriteParams& params, cudaStream_t stream);

}  // namespace fireq::sm90
