// Ops of a float model, FP32 in and out, on the device. Errors: kCuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/formats/bf16.h"
#include "fireq/formats/kv_page.h"
#include "fireq/tensor/dtype.h"

namespace fireq::sm90 {

// y [rows, width] = x / sqrt(mean(x^2) + eps) * weight
void LaunchRmsNormF32(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                      float* y, cudaStream_t stream);

// y [rows, width] += bias [width]
void LaunchAddBias(const float* bias, int64_t rows, int64_t width, float* y, cudaStream_t stream);

// y [rows, width] = silu(gate) * up of sums [rows, gate | up]; bias [2 width] is added first, or
// null.
void LaunchSiluMul(const float* sums, const float* bias, int64_t rows, int64_t width, float* y,
                   cudaStream_t stream);

void LaunchBf16ToF32(const bf16_t* x, int64_t count, float* y, cudaStream_t stream);

// out [tokens, width] = table[ids]: the table is F32 or BF16; `chosen` as EmbedArgs has it, or
// null.
void LaunchEmbedF32(const int32_t* ids, const int32_t* chosen, const void* table, DType type,
                    int64_t tokens, int64_t width, float* out, cudaStream_t stream);
void LaunchGatherRowsF32(const float* x, const int32_t* rows, int64_t count, int64_t width,
                         float* out, cudaStream_t stream);

// As RopeKvWriteArgs has it, of float queries and KvGrid::kFloat.
struct RopeF32Params {
  const float* qkv = nullptr;  // [T, (H + 2 Hk) Dh]
  const float *rope_cos = nullptr, *rope_sin = nullptr;
  const float *q_norm = nullptr, *k_norm = nullptr;  // or null
  const float *crs_q = nullptr, *crs_k = nullptr;    // or null
  float norm_eps = 0.0f;
  float* q = nullptr;  // [T, H Dh]
  uint8_t* pages = nullptr;
  KvPageLayout layout;
  const int32_t *positions = nullptr, *query_start = nullptr, *context_len = nullptr;
  const int32_t* page_table = nullptr;
  int64_t max_pages = 0;
  int32_t num_tokens = 0, num_sequences = 0, num_heads = 0;
};
void LaunchRopeKvWriteF32(const RopeF32Params& params, cudaStream_t stream);

// Causal attention over KvGrid::kFloat pages, a CTA a token and head: for many short sequences.
struct PagedAttentionF32Params {
  const float* q = nullptr;  // [T, H Dh]
  const uint8_t* pages = nullptr;
  KvPageLayout layout;
  const int32_t *query_start = nullptr, *context_len = nullptr;
  const int32_t* page_table = nullptr;
  int64_t max_pages = 0;
  int32_t num_tokens = 0, num_heads = 0;
  int32_t max_context = 0;  // at most kPagedAttentionMaxContext
  float scale = 0.0f;       // of a score
  float* out = nullptr;     // [T, H Dh]
};
inline constexpr int32_t kPagedAttentionMaxContext = 8192;  // its scores lie in shared memory
void LaunchPagedAttentionF32(const PagedAttentionF32Params& params, cudaStream_t stream);

// One sequence's K and V from its pages to k, v [Hk, length, Dh].
void LaunchGatherKv(const uint8_t* pages, const KvPageLayout& layout, const int32_t* page_table,
                    int64_t length, float* k, float* v, cudaStream_t stream);

// scores [heads, queries, keys] to probabilities in place, times `scale` first: query i sees the
// first keys - queries + i + 1, the others become 0.
void LaunchCausalSoftmax(float* scores, int64_t heads, int64_t queries, int64_t keys, float scale,
                         cudaStream_t stream);

}  // namespace fireq::sm90
