// Scales: in and out of the solver's state, and the refit of a group's to a neighbouring E4M3
// value; packing of codes.
#include <algorithm>

#include "fireq/backends/sm90/fit/launch.h"
#include "fireq/backends/sm90/fit/values.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/math.h"
#include "fireq/formats/weight_i4.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 128;

unsigned Rows(int64_t n) { return static_cast<unsigned>(CeilDiv<int64_t>(n, kThreads)); }
__device__ int64_t Row() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

// In the order in which they are tried: 0..3 to -2, -1, 1, 2 E4M3 values further from zero.
__device__ int StepsOf(int trial) { return trial < 2 ? trial - 2 : trial - 1; }

// The outermost stay.
__device__ float NeighbourScale(float scale, int steps) {
  const e4m3_t code = FloatToE4M3(scale);
  const int magnitude = min(max((code & 0x7F) + steps, 1), 0x7E);
  return E4M3ToFloat(static_cast<e4m3_t>((code & 0x80) | magnitude));
}

__global__ void LoadGridKernel(const uint8_t* scales, const uint8_t* zeros, int64_t n,
                               int64_t groups, float* scale, float* zero) {
  const int64_t row = Row(), group = blockIdx.y;
  if (row >= n) return;
  scale[group * n + row] = E4M3ToFloat(scales[row * groups + group]);
  zero[group * n + row] = zeros[row * groups + group];
}

__global__ void StoreScalesKernel(const float* scale, int64_t n, int64_t groups, uint8_t* scales) {
  const int64_t row = Row(), group = blockIdx.y;
  if (row < n) scales[row * groups + group] = FloatToE4M3(scale[group * n + row]);
}

__global__ void GatherRowsKernel(const float* h, int64_t k, const int32_t* places, float* rows) {
  const int64_t i = blockIdx.x;
  const float* from = h + int64_t{places[i]} * k;
  for (int64_t j = threadIdx.x; j < k; j += kThreads) rows[i * k + j] = from[j];
}
__global__ void GatherLocalKernel(const float* h, int64_t k, const int32_t* places, int64_t count,
                                  float* local) {
  const int64_t i = blockIdx.x;
  const float* from = h + int64_t{places[i]} * k;
  for (int64_t j = threadIdx.x; j < count; j += kThreads) local[i * count + j] = from[places[j]];
}

// A column a blockIdx.y.
template <ErrorProducts P>
__global__ void TryScalesKernel(CodeState state, int64_t group, const int32_t* places,
                                float* step) {
  const int64_t row = Row(), i = blockIdx.y;
  if (row >= state.n) return;
  const int64_t at = int64_t{places[i]} * state.n + row;
  const float code = state.code[at], value = state.value[at];
  const float scale = state.scale[group * state.n + row], zero = state.zero[group * state.n + row];
#pragma unroll
  for (int trial = 0; trial < kRefitTries; ++trial)
    step[(i * kRefitTries + trial) * state.n + row] =
        ProductValue<P>(code, NeighbourScale(scale, StepsOf(trial)), zero) - value;
}

// Summed, what a trial (blockIdx.y) changes in a row's error.
template <ErrorProducts P>
__global__ void ChangeKernel(CodeState state, int64_t group, const int32_t* places, int64_t count,
                             const float* local, const float* step, const float* curved,
                             float* change) {
  const int64_t row = Row();
  const int trial = blockIdx.y;
  if (row >= state.n) return;
  const float old = state.scale[group * state.n + row], zero = state.zero[group * state.n + row];
  const float scale = NeighbourScale(old, StepsOf(trial));
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = int64_t{places[i]} * state.n + row;
    const int64_t tried = (i * kRefitTries + trial) * state.n + row;
    const float code = state.code[at];
    const float spread = ProductSpread<P>(code, scale, zero) - ProductSpread<P>(code, old, zero);
    sum += step[tried] * (2.0f * state.work[at] + curved[tried]);
    sum += local[i * count + i] * spread;
  }
  change[trial * state.n + row] = sum;
}

__device__ int BestTrial(const float* change, int64_t n, int64_t row) {
  int best = -1;
  float least = 0.0f;
  for (int trial = 0; trial < kRefitTries; ++trial) {
    if (!(change[trial * n + row] < least)) continue;
    least = change[trial * n + row];
    best = trial;
  }
  return best;
}

__global__ void TakeKernel(CodeState state, const int32_t* places, const float* step,
                           const float* change, float* taken) {
  const int64_t row = Row(), i = blockIdx.y;
  if (row >= state.n) return;
  const int best = BestTrial(change, state.n, row);
  const float moved = best < 0 ? 0.0f : step[(i * kRefitTries + best) * state.n + row];
  taken[i * state.n + row] = moved;
  state.value[int64_t{places[i]} * state.n + row] += moved;
}

__global__ void MoveScaleKernel(CodeState state, int64_t group, const float* change) {
  const int64_t row = Row();
  if (row >= state.n) return;
  const int best = BestTrial(change, state.n, row);
  float& scale = state.scale[group * state.n + row];
  if (best >= 0) scale = NeighbourScale(scale, StepsOf(best));
}

__global__ void PackCodesKernel(CodeState state, int64_t bytes, uint8_t* codes) {
  const int64_t row = Row(), byte = blockIdx.y;
  if (row >= state.n) return;
  const int64_t k = 2 * byte;
  const uint32_t even = state.code[int64_t{state.place[k]} * state.n + row];
  const uint32_t odd =
      k + 1 < state.k ? state.code[int64_t{state.place[k + 1]} * state.n + row] : 0u;
  codes[row * bytes + byte] = static_cast<uint8_t>(even | odd << 4);
}

const int32_t* PlacesOf(const CodeState& state, int64_t group) {
  return state.place + group * kGroup;
}

// f(integral constant of the products)
template <class F>
void WithProducts(ErrorProducts products, const F& f) {
  switch (products) {
    case ErrorProducts::kTable:
      return f(std::integral_constant<ErrorProducts, ErrorProducts::kTable>());
    case ErrorProducts::kExact:
      return f(std::integral_constant<ErrorProducts, ErrorProducts::kExact>());
    case ErrorProducts::kMean:
      return f(std::integral_constant<ErrorProducts, ErrorProducts::kMean>());
  }
}

dim3 Grid(int64_t n, int64_t columns) { return {Rows(n), static_cast<unsigned>(columns)}; }

}  // namespace

void LaunchLoadGrid(const uint8_t* scales, const uint8_t* zeros, int64_t n, int64_t groups,
                    float* scale, float* zero, cudaStream_t stream) {
  LoadGridKernel<<<Grid(n, groups), kThreads, 0, stream>>>(scales, zeros, n, groups, scale, zero);
  CheckLaunch("fit_load_grid");
}

void LaunchStoreScales(const float* scale, int64_t n, int64_t groups, uint8_t* scales,
                       cudaStream_t stream) {
  StoreScalesKernel<<<Grid(n, groups), kThreads, 0, stream>>>(scale, n, groups, scales);
  CheckLaunch("fit_store_scales");
}

void LaunchGatherGroup(const float* h, int64_t k, const int32_t* places, int64_t count, float* rows,
                       float* local, cudaStream_t stream) {
  const unsigned ctas = static_cast<unsigned>(count);
  GatherRowsKernel<<<ctas, kThreads, 0, stream>>>(h, k, places, rows);
  GatherLocalKernel<<<ctas, kThreads, 0, stream>>>(h, k, places, count, local);
  CheckLaunch("fit_gather_group");
}

void LaunchTryScales(const CodeState& state, ErrorProducts products, int64_t group, int64_t count,
                     float* step, cudaStream_t stream) {
  WithProducts(products, [&](auto p) {
    TryScalesKernel<decltype(p)::value>
        <<<Grid(state.n, count), kThreads, 0, stream>>>(state, group, PlacesOf(state, group), step);
  });
  CheckLaunch("fit_try_scales");
}

void LaunchTakeScales(const CodeState& state, ErrorProducts products, int64_t group, int64_t count,
                      const float* local, const float* step, const float* curved, float* change,
                      float* taken, cudaStream_t stream) {
  const int32_t* places = PlacesOf(state, group);
  WithProducts(products, [&](auto p) {
    ChangeKernel<decltype(p)::value><<<Grid(state.n, kRefitTries), kThreads, 0, stream>>>(
        state, group, places, count, local, step, curved, change);
  });
  TakeKernel<<<Grid(state.n, count), kThreads, 0, stream>>>(state, places, step, change, taken);
  MoveScaleKernel<<<Rows(state.n), kThreads, 0, stream>>>(state, group, change);
  CheckLaunch("fit_take_scales");
}

void LaunchPackCodes(const CodeState& state, int64_t bytes, uint8_t* codes, cudaStream_t stream) {
  PackCodesKernel<<<Grid(state.n, bytes), kThreads, 0, stream>>>(state, bytes, codes);
  CheckLaunch("fit_pack_codes");
}

}  // namespace fireq::sm90
