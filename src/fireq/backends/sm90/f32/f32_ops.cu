#include <algorithm>

#include "fireq/backends/sm90/f32/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/math.h"
#include "fireq/formats/bf16.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxCtas = 132 * 16;

unsigned Ctas(int64_t count) {
  return static_cast<unsigned>(std::clamp<int64_t>(CeilDiv<int64_t>(count, kThreads), 1, kMaxCtas));
}

// f(i) for i in [0, count)
template <class F>
__device__ void ForEach(int64_t count, const F& f) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) f(i);
}

__device__ float WarpSum(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(~0u, x, lane);
  return x;
}
__device__ float WarpMax(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lane));
  return x;
}

// Of all threads of a CTA, for all of them.
template <float (*Combine)(float)>
__device__ float CtaReduce(float x, float neutral) {
  __shared__ float warps[kWarps];
  x = Combine(x);
  __syncthreads();  // whoever reduced before has read its result
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return Combine(lane < kWarps ? warps[lane] : neutral);
}

__global__ void RmsNormKernel(const float* x, const float* weight, float eps, int64_t width,
                              float* y) {
  const float* row = x + blockIdx.x * width;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) sum += row[i] * row[i];
  const float inverse =
      1.0f / sqrtf(CtaReduce<WarpSum>(sum, 0.0f) / static_cast<float>(width) + eps);
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    y[blockIdx.x * width + i] = row[i] * inverse * weight[i];
}

__global__ void AddBiasKernel(const float* bias, int64_t count, int64_t width, float* y) {
  ForEach(count, [&](int64_t i) { y[i] += bias[i % width]; });
}

__global__ void SiluMulKernel(const float* sums, const float* bias, int64_t count, int64_t width,
                              float* y) {
  ForEach(count, [&](int64_t i) {
    const int64_t row = i / width, column = i % width;
    float gate = sums[row * 2 * width + column], up = sums[(row * 2 + 1) * width + column];
    if (bias != nullptr) {
      gate += bias[column];
      up += bias[width + column];
    }
    y[i] = gate / (1.0f + expf(-gate)) * up;
  });
}

__global__ void WidenKernel(const bf16_t* x, int64_t count, float* y) {
  ForEach(count, [&](int64_t i) { y[i] = Bf16ToFloat(x[i]); });
}

__global__ void EmbedKernel(const int32_t* ids, const int32_t* chosen, const void* table,
                            DType type, int64_t count, int64_t width, float* out) {
  ForEach(count, [&](int64_t i) {
    int64_t id = ids[i / width];
    if (id < 0) id = max(chosen[~id], 0);
    const int64_t at = id * width + i % width;
    out[i] = type == DType::kBF16 ? Bf16ToFloat(static_cast<const bf16_t*>(table)[at])
                                  : static_cast<const float*>(table)[at];
  });
}

__global__ void GatherRowsKernel(const float* x, const int32_t* rows, int64_t count, int64_t width,
                                 float* out) {
  ForEach(count, [&](int64_t i) { out[i] = x[int64_t{rows[i / width]} * width + i % width]; });
}

// The sequence of a step's token; position: of the token in it, counted from its first.
struct Place {
  int sequence, position;
};
__device__ Place PlaceOf(int token, const int32_t* query_start, const int32_t* context_len) {
  int sequence = 0;
  while (query_start[sequence + 1] <= token) ++sequence;
  return {sequence, context_len[sequence] - (query_start[sequence + 1] - token)};
}

// A warp a token (blockIdx.x) and head of Q, K or V.
__global__ void RopeKernel(RopeF32Params p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  const int kv_heads = p.layout.kv_heads, dim = p.layout.head_dim, half = dim / 2;
  if (head >= p.num_heads + 2 * kv_heads) return;
  const float* x = p.qkv + (int64_t{token} * (p.num_heads + 2 * kv_heads) + head) * dim;
  const bool query = head < p.num_heads, value = head >= p.num_heads + kv_heads;
  const int kv_head = query ? head / (p.num_heads / kv_heads) : (head - p.num_heads) % kv_heads;
  float* out = p.q + (int64_t{token} * p.num_heads + head) * dim;
  if (!query) {
    const auto [sequence, index] = PlaceOf(token, p.query_start, p.context_len);
    const int64_t page = p.page_table[sequence * p.max_pages + index / kTokensPerPage];
    uint8_t* block = p.pages + page * p.layout.page_bytes() + p.layout.head_offset(kv_head) +
                     (value ? p.layout.v_offset() : 0);
    out = reinterpret_cast<float*>(block) + index % kTokensPerPage * dim;
  }
  if (value) {
    for (int d = lane; d < dim; d += 32) out[d] = x[d];
    return;
  }
  const float* norm = query ? p.q_norm : p.k_norm;
  const float* crs = query ? p.crs_q : p.crs_k;
  float inverse = 1.0f;
  if (norm != nullptr) {
    float sum = 0.0f;
    for (int d = lane; d < dim; d += 32) sum += x[d] * x[d];
    inverse = 1.0f / sqrtf(WarpSum(sum) / static_cast<float>(dim) + p.norm_eps);
  }
  const int64_t at = int64_t{p.positions[token]} * half;
  for (int f = lane; f < half; f += 32) {
    float a = x[f] * inverse, b = x[f + half] * inverse;
    if (norm != nullptr) {
      a *= norm[f];
      b *= norm[f + half];
    }
    const float cos = p.rope_cos[at + f], sin = p.rope_sin[at + f];
    const float turned_a = a * cos - b * sin, turned_b = b * cos + a * sin;
    out[f] = turned_a * (crs != nullptr ? crs[kv_head * dim + f] : 1.0f);
    out[f + half] = turned_b * (crs != nullptr ? crs[kv_head * dim + f + half] : 1.0f);
  }
}

// A CTA a token (blockIdx.x) and query head.
__global__ void PagedAttentionKernel(PagedAttentionF32Params p) {
  extern __shared__ float probs[];  // of the keys that the token sees
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int token = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int dim = p.layout.head_dim;
  const auto [sequence, position] = PlaceOf(token, p.query_start, p.context_len);
  const int keys = position + 1;
  const int64_t offset = p.layout.head_offset(head / (p.num_heads / p.layout.kv_heads));
  const int32_t* table = p.page_table + sequence * p.max_pages;
  const auto row = [&](int key, int64_t part) {
    return reinterpret_cast<const float*>(p.pages + offset + part +
                                          table[key / kTokensPerPage] * p.layout.page_bytes()) +
           key % kTokensPerPage * dim;
  };
  const int64_t at = (int64_t{token} * p.num_heads + head) * dim;
  float largest = -INFINITY;
  for (int key = warp; key < keys; key += kWarps) {
    const float* k = row(key, 0);
    float sum = 0.0f;
    for (int d = lane; d < dim; d += 32) sum += p.q[at + d] * k[d];
    sum = WarpSum(sum) * p.scale;
    if (lane == 0) probs[key] = sum;
    largest = fmaxf(largest, sum);
  }
  largest = CtaReduce<WarpMax>(largest, -INFINITY);
  float sum = 0.0f;
  for (int key = thread; key < keys; key += kThreads) {
    probs[key] = expf(probs[key] - largest);
    sum += probs[key];
  }
  const float inverse = 1.0f / CtaReduce<WarpSum>(sum, 0.0f);  // behind all of probs, too
  for (int d = thread; d < dim; d += kThreads) {
    float total = 0.0f;
    for (int key = 0; key < keys; ++key) total += probs[key] * row(key, p.layout.v_offset())[d];
    p.out[at + d] = total * inverse;
  }
}

// A CTA a token and KV head.
__global__ void GatherKvKernel(const uint8_t* pages, KvPageLayout layout, const int32_t* page_table,
                               int64_t length, float* k, float* v) {
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y), dim = layout.head_dim;
  const uint8_t* block =
      pages + page_table[token / kTokensPerPage] * layout.page_bytes() + layout.head_offset(head);
  const int64_t from = token % kTokensPerPage * dim, to = (head * length + token) * dim;
  const float* from_k = reinterpret_cast<const float*>(block) + from;
  const float* from_v = reinterpret_cast<const float*>(block + layout.v_offset()) + from;
  for (int d = threadIdx.x; d < dim; d += static_cast<int>(blockDim.x)) {
    k[to + d] = from_k[d];
    v[to + d] = from_v[d];
  }
}

// A CTA a query (blockIdx.x) and head.
__global__ void SoftmaxKernel(float* scores, int64_t queries, int64_t keys, float scale) {
  float* row = scores + (int64_t{blockIdx.y} * queries + blockIdx.x) * keys;
  const int64_t seen = keys - queries + blockIdx.x + 1;
  float largest = -INFINITY;
  for (int64_t i = threadIdx.x; i < seen; i += kThreads) largest = fmaxf(largest, row[i] * scale);
  largest = CtaReduce<WarpMax>(largest, -INFINITY);
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < seen; i += kThreads) {
    const float e = expf(row[i] * scale - largest);
    row[i] = e;
    sum += e;
  }
  const float inverse = 1.0f / CtaReduce<WarpSum>(sum, 0.0f);
  for (int64_t i = threadIdx.x; i < keys; i += kThreads)
    row[i] = i < seen ? row[i] * inverse : 0.0f;
}

unsigned Grid(int64_t count) { return static_cast<unsigned>(count); }

}  // namespace

void LaunchRmsNormF32(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                      float* y, cudaStream_t stream) {
  if (rows == 0) return;
  RmsNormKernel<<<Grid(rows), kThreads, 0, stream>>>(x, weight, eps, width, y);
  CheckLaunch("f32_rms_norm");
}

void LaunchAddBias(const float* bias, int64_t rows, int64_t width, float* y, cudaStream_t stream) {
  AddBiasKernel<<<Ctas(rows * width), kThreads, 0, stream>>>(bias, rows * width, width, y);
  CheckLaunch("f32_add_bias");
}

void LaunchSiluMul(const float* sums, const float* bias, int64_t rows, int64_t width, float* y,
                   cudaStream_t stream) {
  SiluMulKernel<<<Ctas(rows * width), kThreads, 0, stream>>>(sums, bias, rows * width, width, y);
  CheckLaunch("f32_silu_mul");
}

void LaunchBf16ToF32(const bf16_t* x, int64_t count, float* y, cudaStream_t stream) {
  WidenKernel<<<Ctas(count), kThreads, 0, stream>>>(x, count, y);
  CheckLaunch("f32_widen");
}

void LaunchEmbedF32(const int32_t* ids, const int32_t* chosen, const void* table, DType type,
                    int64_t tokens, int64_t width, float* out, cudaStream_t stream) {
  EmbedKernel<<<Ctas(tokens * width), kThreads, 0, stream>>>(ids, chosen, table, type,
                                                             tokens * width, width, out);
  CheckLaunch("f32_embed");
}

void LaunchGatherRowsF32(const float* x, const int32_t* rows, int64_t count, int64_t width,
                         float* out, cudaStream_t stream) {
  GatherRowsKernel<<<Ctas(count * width), kThreads, 0, stream>>>(x, rows, count * width, width,
                                                                 out);
  CheckLaunch("f32_gather_rows");
}

void LaunchRopeKvWriteF32(const RopeF32Params& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return;
  const int64_t heads = params.num_heads + 2 * params.layout.kv_heads;
  const dim3 grid(Grid(params.num_tokens), Grid(CeilDiv<int64_t>(heads, kWarps)));
  RopeKernel<<<grid, kThreads, 0, stream>>>(params);
  CheckLaunch("f32_rope_kv_write");
}

void LaunchPagedAttentionF32(const PagedAttentionF32Params& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return;
  const dim3 grid(Grid(params.num_tokens), Grid(params.num_heads));
  const size_t shared = static_cast<size_t>(params.max_context) * sizeof(float);
  PagedAttentionKernel<<<grid, kThreads, shared, stream>>>(params);
  CheckLaunch("f32_paged_attention");
}

void LaunchGatherKv(const uint8_t* pages, const KvPageLayout& layout, const int32_t* page_table,
                    int64_t length, float* k, float* v, cudaStream_t stream) {
  const dim3 grid(Grid(length), Grid(layout.kv_heads));
  GatherKvKernel<<<grid, 64, 0, stream>>>(pages, layout, page_table, length, k, v);
  CheckLaunch("f32_gather_kv");
}

void LaunchCausalSoftmax(float* scores, int64_t heads, int64_t queries, int64_t keys, float scale,
                         cudaStream_t stream) {
  SoftmaxKernel<<<dim3(Grid(queries), Grid(heads)), kThreads, 0, stream>>>(scores, queries, keys,
                                                                           scale);
  CheckLaunch("f32_causal_softmax");
}

}  // namespace fireq::sm90
