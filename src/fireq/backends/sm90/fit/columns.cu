// The solver's column loops on all rows side by side: a thread has a row of W, and 16 columns of it
// in registers at a time.
#include "fireq/backends/sm90/fit/launch.h"
#include "fireq/backends/sm90/fit/values.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 64;
constexpr int kBlock = kSolverBlock;
constexpr int kChunk = 16;
constexpr int kSharedBytes = kBlock * kBlock * static_cast<int>(sizeof(float));

// w[q] += sum over the chunk `from` of left times its factors for the chunk `to`.
__device__ void AddChunk(const float (&left)[kChunk], const float* factors, int from, int to,
                         float (&w)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    const float4* row =
        reinterpret_cast<const float4*>(factors + (from * kChunk + i) * kBlock + to * kChunk);
#pragma unroll
    for (int q = 0; q < kChunk / 4; ++q) {
      const float4 factor = row[q];
      w[4 * q] += left[i] * factor.x;
      w[4 * q + 1] += left[i] * factor.y;
      w[4 * q + 2] += left[i] * factor.z;
      w[4 * q + 3] += left[i] * factor.w;
    }
  }
}

template <ColumnStep S, ErrorProducts P>
__global__ void __launch_bounds__(kThreads)
    SolveColumnsKernel(CodeState state, const float* rows, int64_t begin, int count, float* left) {
  extern __shared__ float4 shared[];
  float* factors = reinterpret_cast<float*>(shared);
  for (int i = threadIdx.x; i < kBlock * kBlock; i += kThreads) {
    const int row = i / kBlock, column = i % kBlock;
    factors[i] = row < count && column < count ? rows[row * state.k + begin + column] : 0.0f;
  }
  __syncthreads();
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= state.n) return;
  const int64_t first = begin * state.n + n;  // of this row in [K, N]
  for (int chunk = 0; chunk * kChunk < count; ++chunk) {
    const int column = chunk * kChunk;
    float w[kChunk], scale[kChunk], zero[kChunk], base[kChunk], step[kChunk];
#pragma unroll
    for (int q = 0; q < kChunk; ++q) {
      const int i = column + q < count ? column + q : count - 1;  // beyond: not used
      const int64_t group = state.group[begin + i];
      w[q] = state.work[first + i * state.n];
      scale[q] = state.scale[group * state.n + n];
      zero[q] = state.zero[group * state.n + n];
      base[q] = (S == ColumnStep::kRound ? state.target : state.value)[first + i * state.n];
    }
    for (int earlier = 0; earlier < chunk; ++earlier) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) step[i] = left[(earlier * kChunk + i) * state.n + n];
      AddChunk(step, factors, earlier, chunk, w);
    }
#pragma unroll
    for (int q = 0; q < kChunk; ++q) {
      if (column + q >= count) break;
      const float* row = factors + (column + q) * kBlock + column;
      const float wanted = S == ColumnStep::kRound ? w[q] : base[q] - w[q] * (1.0f / row[q]);
      const ValuedCode nearest = Nearest<P>(wanted, scale[q], zero[q]);
      const float rest =
          S == ColumnStep::kRound ? base[q] - nearest.value : nearest.value - base[q];
      const int64_t at = first + (column + q) * state.n;
      state.code[at] = static_cast<uint8_t>(nearest.code);
      state.value[at] = nearest.value;
      left[(column + q) * state.n + n] = rest;
#pragma unroll
      for (int later = q + 1; later < kChunk; ++later) w[later] += rest * row[later];
    }
  }
}

template <ColumnStep S, ErrorProducts P>
void Launch(const CodeState& state, const float* factors, int64_t begin, int64_t count, float* left,
            cudaStream_t stream) {
  FIREQ_CUDA(cudaFuncSetAttribute(SolveColumnsKernel<S, P>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  SolveColumnsKernel<S, P>
      <<<static_cast<unsigned>(CeilDiv<int64_t>(state.n, kThreads)), kThreads, kSharedBytes,
         stream>>>(state, factors, begin, static_cast<int>(count), left);
  CheckLaunch("fit_solve_columns");
}

template <ColumnStep S>
void Launch(const CodeState& state, ErrorProducts products, const float* factors, int64_t begin,
            int64_t count, float* left, cudaStream_t stream) {
  switch (products) {
    case ErrorProducts::kTable:
      return Launch<S, ErrorProducts::kTable>(state, factors, begin, count, left, stream);
    case ErrorProducts::kExact:
      return Launch<S, ErrorProducts::kExact>(state, factors, begin, count, left, stream);
    case ErrorProducts::kMean:
      return Launch<S, ErrorProducts::kMean>(state, factors, begin, count, left, stream);
  }
}

}  // namespace

void LaunchSolveColumns(const CodeState& state, ColumnStep step, ErrorProducts products,
                        const float* factors, int64_t begin, int64_t count, float* left,
                        cudaStream_t stream) {
  if (step == ColumnStep::kRound) {
    Launch<ColumnStep::kRound>(state, products, factors, begin, count, left, stream);
  } else {
    Launch<ColumnStep::kSweep>(state, products, factors, begin, count, left, stream);
  }
}

}  // namespace fireq::sm90
