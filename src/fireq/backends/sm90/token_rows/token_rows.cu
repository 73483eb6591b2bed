#include <cuda_fp16.h>

#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/programmatic_launch.h"
#include "fireq/backends/sm90/token_rows/launch.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 128;
constexpr int kVector = 8;  // BF16 values of a 16-byte access

// One CTA a row.
__global__ void CopyRowsKernel(const int32_t* __restrict__ rows, const int32_t* __restrict__ chosen,
                               const uint4* __restrict__ from, int64_t row_vectors,
                               uint4* __restrict__ to) {
  GridDependencyLaunch();
  int32_t row = rows[blockIdx.x];
  if (row < 0) row = max(chosen[~row], 0);
  const int64_t source = row * row_vectors;
  const int64_t target = static_cast<int64_t>(blockIdx.x) * row_vectors;
  for (int64_t i = threadIdx.x; i < row_vectors; i += kThreads) to[target + i] = from[source + i];
}

template <int kThreads>
__device__ float BlockSum(float value) {
  __shared__ float partial[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();  // every warp's sum is there before any thread adds them
  float total = 0.0f;
  for (int warp = 0; warp < kThreads / 32; ++warp) total += partial[warp];
  return total;
}

__device__ void Unpack(uint4 packed, float (&values)[kVector]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = Bf16ToFloat(static_cast<bf16_t>(words[i] & 0xFFFFu));
    values[2 * i + 1] = Bf16ToFloat(static_cast<bf16_t>(words[i] >> 16));
  }
}

constexpr int kNormThreads = 512;

struct RmsNormParams {
  const uint4* x;
  const float* weight;
  float eps;
  int64_t dim;
  uint4* out;
};

struct VectorOfWeights {
  uint4 low, high;
  __device__ float operator[](int i) const {
    const uint32_t words[kVector] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    return __uint_as_float(words[i]);
  }
};
__device__ VectorOfWeights LoadWeights(const float* weight, int64_t vector) {
  const float* from = weight + vector * kVector;
  return {LoadGlobalNow128(from), LoadGlobalNow128(from + 4)};
}

// One CTA a row, read twice: the second time from L1. Each thread's first weights are on their way
// before the kernel in front has ended.
__global__ void __launch_bounds__(kNormThreads)
    RmsNormKernel(const __grid_constant__ RmsNormParams p) {
  GridDependencyLaunch();
  const int64_t vectors = p.dim / kVector;
  const uint4* row = p.x + blockIdx.x * vectors;
  VectorOfWeights weights{};
  if (threadIdx.x < vectors) weights = LoadWeights(p.weight, threadIdx.x);
  GridDependencyWait();
  float values[kVector];
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < vectors; i += kNormThreads) {
    Unpack(row[i], values);
    for (const float v : values) squares += v * v;
  }
  const float inv_rms =
      1.0f / sqrtf(BlockSum<kNormThreads>(squares) / static_cast<float>(p.dim) + p.eps);
  for (int64_t i = threadIdx.x; i < vectors; i += kNormThreads) {
    if (i >= kNormThreads) weights = LoadWeights(p.weight, i);
    Unpack(row[i], values);
    uint32_t words[4];
    for (int j = 0; j < 4; ++j) {
      const bf16_t low = FloatToBf16(values[2 * j] * inv_rms * weights[2 * j]);
      const bf16_t high = FloatToBf16(values[2 * j + 1] * inv_rms * weights[2 * j + 1]);
      words[j] = low | (static_cast<uint32_t>(high) << 16);
    }
    p.out[blockIdx.x * vectors + i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

__global__ void HalfToFloatKernel(const uint4* __restrict__ in, int64_t vectors,
                                  float4* __restrict__ out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const uint4 packed = in[i];
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
  float2 pairs[4];
  for (int j = 0; j < 4; ++j)
    pairs[j] = __half22float2(*reinterpret_cast<const __half2*>(&words[j]));
  out[2 * i] = make_float4(pairs[0].x, pairs[0].y, pairs[1].x, pairs[1].y);
  out[2 * i + 1] = make_float4(pairs[2].x, pairs[2].y, pairs[3].x, pairs[3].y);
}

// One CTA a row of a part.
__global__ void JoinColumnsKernel(const float4* __restrict__ in, int64_t vectors,
                                  float4* __restrict__ out) {
  const int64_t row = blockIdx.x, part = blockIdx.y;
  const float4* from = in + (part * gridDim.x + row) * vectors;
  float4* to = out + (row * gridDim.y + part) * vectors;
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) to[i] = from[i];
}

unsigned CheckedGrid(int64_t rows, int64_t dim) {
  FIREQ_CHECK(dim > 0 && dim % kVector == 0, kInvalidArgument, "rows of ", dim,
              " elements: not a multiple of ", kVector);
  FIREQ_CHECK(rows <= 0x7FFFFFFF, kInvalidArgument, rows, " rows in one launch");
  return static_cast<unsigned>(rows);
}

}  // namespace

// An ordinary launch: a step begins behind the end of the one before, whose tokens decode attention
// reads without waiting for the kernels in front of it.
void LaunchEmbed(const int32_t* ids, const int32_t* chosen, const bf16_t* table, int64_t num_tokens,
                 int64_t dim, bf16_t* out, cudaStream_t stream) {
  if (num_tokens == 0) return;
  CopyRowsKernel<<<CheckedGrid(num_tokens, dim), kThreads, 0, stream>>>(
      ids, chosen, reinterpret_cast<const uint4*>(table), dim / kVector,
      reinterpret_cast<uint4*>(out));
  CheckLaunch("embed");
}

void LaunchRmsNorm(const bf16_t* x, const float* weight, float eps, int64_t num_tokens, int64_t dim,
                   bf16_t* out, cudaStream_t stream) {
  if (num_tokens == 0) return;
  FIREQ_CUDA(LaunchProgrammatic(
      RmsNormKernel, {.grid = dim3(CheckedGrid(num_tokens, dim)), .threads = kNormThreads},
      RmsNormParams{reinterpret_cast<const uint4*>(x), weight, eps, dim,
                    reinterpret_cast<uint4*>(out)},
      stream));
}

void LaunchJoinColumns(const float* in, int64_t parts, int64_t rows, int64_t width, float* out,
                       cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(CheckedGrid(rows, width), static_cast<unsigned>(parts));
  JoinColumnsKernel<<<grid, kThreads, 0, stream>>>(reinterpret_cast<const float4*>(in), width / 4,
                                                   reinterpret_cast<float4*>(out));
  CheckLaunch("join_columns");
}

void LaunchHalfToFloat(const uint16_t* in, int64_t count, float* out, cudaStream_t stream) {
  FIREQ_CHECK(count % kVector == 0, kInvalidArgument, count, " values: not a multiple of ",
              kVector);
  const int64_t vectors = count / kVector;
  const unsigned grid = CheckedGrid(CeilDiv<int64_t>(vectors, kThreads), kVector);
  if (grid == 0) return;
  HalfToFloatKernel<<<grid, kThreads, 0, stream>>>(reinterpret_cast<const uint4*>(in), vectors,
                                                   reinterpret_cast<float4*>(out));
  CheckLaunch("half_to_float");
}

}  // namespace fireq::sm90
