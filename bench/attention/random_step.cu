#include "bench/attention/random_step.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "fireq/base/math.h"
#include "fireq/formats/e4m3.h"

namespace fireq::bench {
namespace {

__device__ uint32_t Hash(uint64_t x) {
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDull;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53ull;
  return static_cast<uint32_t>(x >> 32);
}
__device__ float Uniform(uint64_t x) { return static_cast<float>(Hash(x)) * 0x1p-32f; }

// Sum of four uniforms: near enough to normal, of deviation 1.
__device__ float Normal(uint64_t x) {
  const uint32_t a = Hash(2 * x);
  const uint32_t b = Hash(2 * x + 1);
  const uint32_t sum = (a & 0xFFFFu) + (a >> 16) + (b & 0xFFFFu) + (b >> 16);
  return (static_cast<float>(sum) * 0x1p-16f - 2.0f) * 1.7320508f;
}

// What a vector of K (V where `value`) has: 128 normal numbers span about five and a half.
struct VectorGrid {
  float scale;
  uint32_t zero;
};
__device__ VectorGrid GridOf(uint64_t block, int64_t token, bool value, uint64_t seed) {
  const uint64_t key = seed ^ (block * 128 + static_cast<uint64_t>(token) * 2 + (value ? 1 : 0));
  const uint32_t bits = Hash(key + 0x9E3779B97F4A7C15ull);
  return {Bf16ToFloat(FloatToBf16(0.32f + 0.08f * static_cast<float>(bits & 0xFFFFu) * 0x1p-16f)),
          7 + (bits >> 31)};
}
__device__ uint32_t Code(uint64_t key, VectorGrid grid) {
  const int code = __float2int_rn(Normal(key) / grid.scale) + static_cast<int>(grid.zero);
  return static_cast<uint32_t>(min(max(code, 0), 15));
}

// Normal numbers as the cache has them, one 32-bit word a thread.
__global__ void FillPages(uint32_t* words, int64_t count, KvPageLayout layout, uint64_t seed) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const auto block = static_cast<uint64_t>(i * 4 / layout.head_bytes());
  const int64_t at = i * 4 % layout.head_bytes();
  const uint64_t key = seed + static_cast<uint64_t>(i) * 8;
  uint32_t word = 0;
  if (at < layout.k_scale_offset()) {
    const bool value = at >= layout.v_offset();
    const int64_t group = (at - layout.v_offset()) / (kVGroupBytes * layout.head_dim);
    for (int n = 0; n < 8; ++n) {  // nibble n % 2 of byte n / 2
      const int64_t token = value ? kVGroupTokens * group + at % kVGroupBytes + n / 2 + n % 2 * 8
                                  : at * 2 / layout.head_dim;
      word |= Code(key + static_cast<uint64_t>(n), GridOf(block, token, value, seed)) << (4 * n);
    }
  } else if (at < layout.k_zero_offset()) {
    const bool value = at >= layout.v_scale_offset();
    const int64_t token = (at - (value ? layout.v_scale_offset() : layout.k_scale_offset())) / 2;
    word = FloatToBf16(GridOf(block, token, value, seed).scale) |
           static_cast<uint32_t>(FloatToBf16(GridOf(block, token + 1, value, seed).scale)) << 16;
  } else {
    const bool value = at >= layout.v_zero_offset();
    const int64_t token = at - (value ? layout.v_zero_offset() : layout.k_zero_offset());
    for (int n = 0; n < 4; ++n) word |= GridOf(block, token + n, value, seed).zero << (8 * n);
  }
  words[i] = word;
}

// Near enough to normal, absmax below 448 / 128.
__global__ void FillQueries(uint8_t* q, int64_t count, uint64_t seed) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint64_t key = seed + static_cast<uint64_t>(i) * 4;
  const float sum = Uniform(key) + Uniform(key + 1) + Uniform(key + 2) + Uniform(key + 3);
  q[i] = FloatToE4M3((sum - 2.0f) * 1.7f * 128.0f);
}

// Two BF16 a word.
__global__ void FillBf16(uint32_t* words, int64_t count, uint64_t seed) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint64_t key = seed + static_cast<uint64_t>(i) * 4;
  const uint32_t low = FloatToBf16((Uniform(key) + Uniform(key + 1) - 1.0f) * 2.5f);
  const uint32_t high = FloatToBf16((Uniform(key + 2) + Uniform(key + 3) - 1.0f) * 2.5f);
  words[i] = low | high << 16;
}

__global__ void FillRotations(float* cosine, float* sine, int64_t count, int half_dim) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float rate = exp2f(-13.2877f * static_cast<float>(i % half_dim) / half_dim);  // 10^-4
  const float turns = static_cast<float>(i / half_dim) * rate * 0.15915494f;
  sincospif(2.0f * (turns - floorf(turns)), sine + i, cosine + i);
}

__global__ void FillFloats(float* x, int64_t count, float value) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) x[i] = value;
}

unsigned Blocks(int64_t count) { return static_cast<unsigned>(CeilDiv<int64_t>(count, 256)); }

}  // namespace

RandomStep::RandomStep(const StepShape& s, uint32_t seed)
    : shape(s),
      max_pages(CeilDiv(s.context, kTokensPerPage)),
      q(int64_t{s.sequences} * s.query_len * s.heads * s.layout.head_dim),
      scale_q(int64_t{s.sequences} * s.query_len * s.heads),
      pages(int64_t{s.sequences} * max_pages * s.layout.page_bytes()),
      out(q.count()) {
  std::mt19937 rng(seed);
  std::vector<int32_t> table(static_cast<size_t>(s.sequences) * max_pages);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), rng);
  std::vector<int32_t> starts;
  for (int i = 0; i <= s.sequences; ++i) starts.push_back(i * s.query_len);
  page_table = sm90::DeviceBuffer<int32_t>(table);
  query_start = sm90::DeviceBuffer<int32_t>(starts);
  std::vector<int32_t> contexts(s.sequences, s.context);
  std::fill_n(contexts.rbegin(), s.short_sequences, kShortContext);
  context_len = sm90::DeviceBuffer<int32_t>(contexts);
  const int64_t words = pages.size_bytes() / 4;
  const uint64_t key = uint64_t{rng()} << 32;
  FillPages<<<Blocks(words), 256>>>(reinterpret_cast<uint32_t*>(pages.data()), words, s.layout,
                                    key);
  FillQueries<<<Blocks(q.count()), 256>>>(q.data(), q.count(), key + rng());
  FillFloats<<<Blocks(scale_q.count()), 256>>>(scale_q.data(), scale_q.count(),
                                               s.deviation / 128.0f);
  sm90::CheckLaunch("bench attention fill");
  FIREQ_CUDA(cudaDeviceSynchronize());
}

RandomQkv::RandomQkv(const StepShape& s, uint32_t seed)
    : qkv(int64_t{s.sequences} * s.query_len * (s.heads + 2 * s.layout.kv_heads) *
          s.layout.head_dim),
      rope_cos(int64_t{s.context} * s.layout.head_dim / 2),
      rope_sin(rope_cos.count()) {
  FillBf16<<<Blocks(qkv.count() / 2), 256>>>(reinterpret_cast<uint32_t*>(qkv.data()),
                                             qkv.count() / 2, uint64_t{seed} << 32);
  FillRotations<<<Blocks(rope_cos.count()), 256>>>(rope_cos.data(), rope_sin.data(),
                                                   rope_cos.count(), s.layout.head_dim / 2);
  sm90::CheckLaunch("bench attention fill");
  FIREQ_CUDA(cudaDeviceSynchronize());
}

}  // namespace fireq::bench
