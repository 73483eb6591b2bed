#include "bench/gemm/device_data.h"

#include <cuda_fp16.h>

#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::bench {
namespace {

__device__ uint32_t Hash(uint64_t index, uint32_t seed) {
  uint64_t v = (index + 1) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;
  v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9ull;
  v = (v ^ (v >> 27)) * 0x94D049BB133111EBull;
  return static_cast<uint32_t>(v >> 32);
}

template <class Make, class T>
__global__ void Fill(T* data, int64_t count, Make make) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x)
    data[i] = make(i);
}

__global__ void Clock(unsigned long long* out) {
  uint32_t sm;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
  if (sm != 0) return;
  unsigned long long ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  out[0] = clock64();
  out[1] = ns;
}

template <int kUnroll>
__global__ void Read(const uint4* data, int64_t count, uint32_t* sink) {
  uint32_t any = 0;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  for (; i + (kUnroll - 1) * stride < count; i += kUnroll * stride) {
    uint4 v[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) v[u] = sm90::LoadGlobalOnce128(data + i + u * stride);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) any |= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  for (; i < count; i += stride) {
    const uint4 v = sm90::LoadGlobalOnce128(data + i);
    any |= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (any == 0x12345678u) *sink = any;  // keeps the loads
}

template <class T, class Make>
void Launch(T* data, int64_t count, Make make) {
  if (count > 0) Fill<<<1056, 256>>>(data, count, make);
  sm90::CheckLaunch("fill");
}

__device__ uint8_t Finite(uint32_t bits) {
  const uint8_t code = static_cast<uint8_t>(bits);
  return (code & 0x7F) == 0x7F ? code ^ 1 : code;
}

// Eight outputs a thread.
__global__ void SiluMul(const uint4* gate_up, int64_t count, int64_t pieces, uint4* h) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t row = i / pieces, at = row * 2 * pieces + i % pieces;
  uint4 gate = gate_up[at], up = gate_up[at + pieces];
  auto* g = reinterpret_cast<__half2*>(&gate);
  const auto* u = reinterpret_cast<const __half2*>(&up);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 a = __half22float2(g[j]), b = __half22float2(u[j]);
    g[j] = __floats2half2_rn(a.x / (1.0f + __expf(-a.x)) * b.x, a.y / (1.0f + __expf(-a.y)) * b.y);
  }
  h[i] = gate;
}

}  // namespace

void SiluMulF16(const uint16_t* gate_up, int64_t m, int64_t f, uint16_t* h, cudaStream_t stream) {
  const int64_t count = m * f / 8;
  SiluMul<<<static_cast<unsigned>((count + 255) / 256), 256, 0, stream>>>(
      reinterpret_cast<const uint4*>(gate_up), count, f / 8, reinterpret_cast<uint4*>(h));
  sm90::CheckLaunch("silu_mul");
}
void FillE4M3(uint8_t* data, int64_t count, uint32_t seed) {
  Launch(data, count, [=] __device__(int64_t i) { return Finite(Hash(i, seed)); });
}
void FillF16(uint16_t* data, int64_t count, uint32_t seed) {
  Launch(data, count, [=] __device__(int64_t i) {
    return __half_as_ushort(__float2half(static_cast<float>(Hash(i, seed)) * 0x1p-31f - 1.0f));
  });
}
void FillTiles(uint8_t* tiles, int64_t num_tiles, bool symmetric, uint32_t seed) {
  Launch(tiles, num_tiles * kTileBytes, [=] __device__(int64_t i) -> uint8_t {
    const uint32_t bits = Hash(i, seed);
    if (i % kTileBytes < kTileCodeBytes) return static_cast<uint8_t>(bits);
    if (i % 2 == 1) return symmetric ? 8 : bits % 16;
    return static_cast<uint8_t>((bits & 0x80) | (0x20 + bits % 16));
  });
}
void FillFloats(float* data, int64_t count, float low, float high, uint32_t seed) {
  Launch(data, count, [=] __device__(int64_t i) {
    return low + (high - low) * static_cast<float>(Hash(i, seed)) * 0x1p-32f;
  });
}

void ReadBytes(const uint8_t* data, int64_t bytes, int unroll, int ctas_per_sm, uint32_t* sink,
               cudaStream_t stream) {
  const auto* words = reinterpret_cast<const uint4*>(data);
  const int ctas = sm90::NumSms() * ctas_per_sm;
  if (unroll == 4) {
    Read<4><<<ctas, 256, 0, stream>>>(words, bytes / 16, sink);
  } else {
    Read<8><<<ctas, 256, 0, stream>>>(words, bytes / 16, sink);
  }
  sm90::CheckLaunch("read");
}

void ReadClock(unsigned long long* out, cudaStream_t stream) {
  Clock<<<sm90::NumSms(), 32, 0, stream>>>(out);
  sm90::CheckLaunch("clock");
}

}  // namespace fireq::bench
