#include <algorithm>

#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/rope_kv_write/vector.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// Tokens of one sequence that share a group of 16 in the cache.
struct TokenRun {
  int sequence;
  int token;  // first, in the step
  int index;  // of that token in its sequence
  int count;  // 1..16; 0: there is no such run
};

// Run number `wanted` over all sequences. Every warp finds it for itself: a scan of S lengths.
__device__ TokenRun FindRun(const RopeKvWriteParams& p, int wanted) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int first = 0; first < p.num_sequences; first += 32) {
    const int s = first + lane;
    int start = 0, tokens = 0, index = 0;
    if (s < p.num_sequences) {
      start = p.query_start[s];
      tokens = p.query_start[s + 1] - start;
      index = p.context_len[s] - tokens;
    }
    const int runs =
        tokens > 0 ? (index % kVGroupTokens + tokens + kVGroupTokens - 1) / kVGroupTokens : 0;
    int before = runs;  // inclusive scan
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, before, step);
      if (lane >= step) before += other;
    }
    const int total = __shfl_sync(0xFFFFFFFFu, before, 31);
    if (wanted >= total) {
      wanted -= total;
      continue;
    }
    const int owner = __ffs(static_cast<int>(__ballot_sync(0xFFFFFFFFu, wanted < before))) - 1;
    const int nth = __shfl_sync(0xFFFFFFFFu, wanted - (before - runs), owner);
    start = __shfl_sync(0xFFFFFFFFu, start, owner);
    tokens = __shfl_sync(0xFFFFFFFFu, tokens, owner);
    index = __shfl_sync(0xFFFFFFFFu, index, owner);
    // All runs but the first begin on a multiple of 16.
    const int begin = nth == 0 ? 0 : nth * kVGroupTokens - index % kVGroupTokens;
    const int room = kVGroupTokens - (index + begin) % kVGroupTokens;
    return {first + owner, start + begin, index + begin, min(room, tokens - begin)};
  }
  return {0, 0, 0, 0};
}

template <int kHeadDim>
__device__ void StoreQuery(const RopeKvWriteParams& p, const Vector<kHeadDim>& x, int64_t row) {
  const TokenScale scale = MakeTokenScale(x.AbsMax());
  const int place = Vector<kHeadDim>::Place();
  uint8_t* out = p.q + row * kHeadDim + 2 * place;
  *reinterpret_cast<uint16_t*>(out) =
      FloatsToE4M3x2(x.value[0] * scale.inv_scale, x.value[1] * scale.inv_scale);
  *reinterpret_cast<uint16_t*>(out + kHeadDim / 2) =
      FloatsToE4M3x2(x.value[2] * scale.inv_scale, x.value[3] * scale.inv_scale);
  if (place == 0) p.scale_q[row] = scale.scale;
}

// Codes of values 0, 1 in bytes 0, 1 and of values 2, 3 in bytes 2, 3.
template <int kHeadDim>
__device__ uint32_t Codes(const Vector<kHeadDim>& x, KvScale scale) {
  uint32_t codes = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) codes |= static_cast<uint32_t>(KvCode(x.value[i], scale)) << (8 * i);
  return codes;
}

// 16 bytes hold 32 values of d: d and d + 16, eight lanes further, share a byte.
template <int kHeadDim>
__device__ void StoreKCodes(uint32_t codes, uint8_t* row) {
  using V = Vector<kHeadDim>;
  const uint32_t partner = __shfl_down_sync(V::Mask(), codes, 8, V::kLanes);
  const uint32_t packed = codes | (partner << 4);
  const int place = V::Place();
  if (place % 16 >= 8) return;
  uint8_t* out = row + place / 16 * 16 + place % 8 * 2;
  *reinterpret_cast<uint16_t*>(out) = static_cast<uint16_t>(packed);
  *reinterpret_cast<uint16_t*>(out + kHeadDim / 4) = static_cast<uint16_t>(packed >> 16);
}

__device__ void StoreScale(uint8_t* block, int64_t scale_offset, int64_t zero_offset, int slot,
                           KvScale scale) {
  *reinterpret_cast<bf16_t*>(block + scale_offset + 2 * slot) = scale.scale;
  block[zero_offset + slot] = scale.zero;
}

// `codes` [16 tokens][kHeadDim] of the run's tokens into the group's bytes; a thread a d. Nibbles
// of tokens that are not in the run are kept: they may be an earlier step's.
template <int kHeadDim>
__device__ void StoreVCodes(const TokenRun& run, const uint8_t* codes, uint8_t* group) {
  const int d = static_cast<int>(threadIdx.x);
  if (d >= kHeadDim) return;
  uint2* place = reinterpret_cast<uint2*>(group + d * kVGroupBytes);
  uint2 bytes = make_uint2(0, 0);
  if (run.count < kVGroupTokens) bytes = *place;
  const int first = run.index % kVGroupTokens;
  for (int t = first; t < first + run.count; ++t) {
    uint32_t& word = t % 8 < 4 ? bytes.x : bytes.y;
    const int shift = t % 4 * 8 + t / 8 * 4;
    word = (word & ~(0xFu << shift)) | (static_cast<uint32_t>(codes[t * kHeadDim + d]) << shift);
  }
  *place = bytes;
}

// Grid: runs x KV heads. The vectors of a CTA are the run's tokens of each query head of the KV
// head's group, then of K, then of V.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) RopeKvWriteKernel(const RopeKvWriteParams p) {
  using V = Vector<kHeadDim>;
  constexpr int kPerWarp = 32 / V::kLanes;
  __shared__ uint8_t v_codes[kVGroupTokens * kHeadDim];
  const TokenRun run = FindRun(p, static_cast<int>(blockIdx.x));
  if (run.count == 0) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int heads_per_kv = p.num_heads / p.layout.kv_heads;
  const int64_t width = static_cast<int64_t>(p.num_heads + 2 * p.layout.kv_heads) * kHeadDim;
  const int page =
      p.page_table[static_cast<int64_t>(run.sequence) * p.max_pages + run.index / kTokensPerPage];
  uint8_t* block = p.pages + page * p.layout.page_bytes() + p.layout.head_offset(kv_head);

  const int vectors = (heads_per_kv + 2) * run.count;
  const int warp = static_cast<int>(threadIdx.x / 32);
  for (int v = warp * kPerWarp + V::Sub(); v < vectors; v += kWarps * kPerWarp) {
    const int kind = v / run.count;
    const int i = v % run.count;
    const int64_t token = run.token + i;
    const int slot = (run.index + i) % kTokensPerPage;
    const int head = kind < heads_per_kv
                         ? kv_head * heads_per_kv + kind
                         : p.num_heads + (kind - heads_per_kv) * p.layout.kv_heads + kv_head;
    V x(p.qkv + token * width + static_cast<int64_t>(head) * kHeadDim);
    if (kind == heads_per_kv + 1) {
      const KvScale scale = x.ScaleOf(p.layout.grid);
      const uint32_t codes = Codes<kHeadDim>(x, scale);
      uint8_t* row = v_codes + (run.index + i) % kVGroupTokens * kHeadDim + 2 * V::Place();
      *reinterpret_cast<uint16_t*>(row) = static_cast<uint16_t>(codes);
      *reinterpret_cast<uint16_t*>(row + kHeadDim / 2) = static_cast<uint16_t>(codes >> 16);
      if (V::Place() == 0)
        StoreScale(block, p.layout.v_scale_offset(), p.layout.v_zero_offset(), slot, scale);
      continue;
    }
    const bool query = kind < heads_per_kv;
    const float* norm = query ? p.q_norm : p.k_norm;
    const float* crs = query ? p.crs_q : p.crs_k;
    if (norm != nullptr) x.RmsNorm(norm, p.norm_eps);
    const int64_t angle = static_cast<int64_t>(p.positions[token]) * (kHeadDim / 2);
    x.Rotate(p.rope_cos + angle, p.rope_sin + angle);
    if (crs != nullptr) x.Multiply(crs + kv_head * kHeadDim);
    if (p.hadamard) x.Hadamard();
    if (query) {
      StoreQuery<kHeadDim>(p, x, token * p.num_heads + head);
    } else {
      const KvScale scale = x.ScaleOf(p.layout.grid);
      StoreKCodes<kHeadDim>(Codes<kHeadDim>(x, scale), block + slot * (kHeadDim / 2));
      if (V::Place() == 0)
        StoreScale(block, p.layout.k_scale_offset(), p.layout.k_zero_offset(), slot, scale);
    }
  }
  __syncthreads();  // v_codes: written by the warps above, read by a thread a d below
  StoreVCodes<kHeadDim>(run, v_codes,
                        block + p.layout.v_offset() +
                            run.index % kTokensPerPage / kVGroupTokens * (kHeadDim * kVGroupBytes));
}

}  // namespace

void LaunchRopeKvWrite(const RopeKvWriteParams& params, cudaStream_t stream) {
  FIREQ_CHECK(params.layout.grid != KvGrid::kFloat, kUnsupported, "a float cache on the GPU");
  FIREQ_CHECK(params.layout.kv_heads > 0 && params.num_heads % params.layout.kv_heads == 0,
              kShapeMismatch, params.num_heads, " query heads over ", params.layout.kv_heads,
              " KV heads");
  FIREQ_CHECK(params.layout.head_dim == 64 || params.layout.head_dim == 128, kUnsupported,
              "head dim ", params.layout.head_dim, " on the GPU: 64 or 128");
  if (params.num_tokens == 0) return;
  // A sequence of n tokens has at most n runs and at most (n + 30) / 16; surplus CTAs find none.
  const int64_t runs = std::min<int64_t>(
      params.num_tokens,
      (params.num_tokens + 30 * static_cast<int64_t>(params.num_sequences)) / kVGroupTokens + 1);
  const dim3 grid(static_cast<unsigned>(runs), static_cast<unsigned>(params.layout.kv_heads));
  if (params.layout.head_dim == 64) {
    RopeKvWriteKernel<64><<<grid, kThreads, 0, stream>>>(params);
  } else {
    RopeKvWriteKernel<128><<<grid, kThreads, 0, stream>>>(params);
  }
  CheckLaunch("rope_kv_write");
}

}  // namespace fireq::sm90
