// Sums over tokens and the matrices made of them, element by element.
#include <algorithm>

#include "fireq/backends/sm90/fit/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxCtas = 132 * 16;
constexpr int kColumns = 64;  // of the energy that a CTA sums
constexpr int kTile = 32;     // of matrices that are turned
constexpr int kTileRows = 8;  // of a tile that a CTA moves at a time

unsigned Ctas(int64_t count) {
  return static_cast<unsigned>(std::clamp<int64_t>(CeilDiv<int64_t>(count, kThreads), 1, kMaxCtas));
}

__device__ float ValueAt(const RowsView& rows, int64_t row, int64_t at) {
  switch (rows.form) {
    case RowForm::kF32:
      return static_cast<const float*>(rows.values)[at];
    case RowForm::kBf16:
      return Bf16ToFloat(static_cast<const bf16_t*>(rows.values)[at]);
    case RowForm::kE4M3:
      break;
  }
  return E4M3ToFloat(static_cast<const e4m3_t*>(rows.values)[at]) * rows.scale[row];
}

__global__ void DifferenceKernel(RowsView ahead, RowsView behind, const float* bias, int64_t count,
                                 int64_t width, float* out) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t row = i / width;
    float value = ValueAt(ahead, row, i);
    if (behind.values != nullptr) value -= ValueAt(behind, row, i);
    if (bias != nullptr) value -= bias[i - row * width];
    out[i] = value;
  }
}

__global__ void EnergyKernel(const float* x, int64_t rows, int64_t width, double* energy) {
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  if (column >= width) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t t = 0; t < rows; ++t) sum += x[t * width + column] * x[t * width + column];
  energy[column] += sum;
}

// Tiles below the diagonal, each for itself and its mirror image.
__global__ void DampKernel(const float* sums, const double* energy, int64_t k, float scale,
                           double term, double unit, float* h) {
  if (blockIdx.x > blockIdx.y) return;
  __shared__ float tile[kTile][kTile + 1];
  const int64_t row = int64_t{blockIdx.y} * kTile, column = int64_t{blockIdx.x} * kTile;
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < kTile; y += kTileRows)
    if (row + y < k && column + x < k) tile[y][x] = sums[(row + y) * k + column + x] * scale;
  __syncthreads();
  const bool diagonal = blockIdx.x == blockIdx.y;
  for (int y = threadIdx.y; y < kTile; y += kTileRows) {
    if (row + y < k && column + x < k && !(diagonal && x > y))
      h[(row + y) * k + column + x] =
          diagonal && x == y ? static_cast<float>((energy[row + y] + term) / unit) : tile[y][x];
    if (column + y < k && row + x < k && !(diagonal && x <= y))
      h[(column + y) * k + row + x] = tile[x][y];
  }
}

__global__ void ReorderKernel(const float* h, const int32_t* order, int64_t k, float* out) {
  const int64_t i = blockIdx.x;
  const float* from = h + int64_t{order[i]} * k;
  for (int64_t j = threadIdx.x; j < k; j += kThreads) out[i * k + j] = from[order[j]];
}

__global__ void TurnKernel(const float* in, int64_t rows, int64_t cols, float factor, float keep,
                           float* out) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t row = int64_t{blockIdx.y} * kTile, column = int64_t{blockIdx.x} * kTile;
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < kTile; y += kTileRows)
    if (column + y < cols && row + x < rows) tile[y][x] = in[(column + y) * rows + row + x];
  __syncthreads();
  for (int y = threadIdx.y; y < kTile; y += kTileRows) {
    if (row + y >= rows || column + x >= cols) continue;
    float* to = out + (row + y) * cols + column + x;
    *to = tile[x][y] * factor + (keep != 0.0f ? *to * keep : 0.0f);
  }
}

// Columns of w become rows, each at its place.
__global__ void TurnColumnsKernel(const float* w, int64_t n, int64_t k, const int32_t* place,
                                  float factor, float* out) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t column = int64_t{blockIdx.x} * kTile, row = int64_t{blockIdx.y} * kTile;
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < kTile; y += kTileRows)
    if (row + y < n && column + x < k) tile[y][x] = w[(row + y) * k + column + x];
  __syncthreads();
  for (int y = threadIdx.y; y < kTile; y += kTileRows)
    if (column + y < k && row + x < n)
      out[int64_t{place[column + y]} * n + row + x] = tile[x][y] * factor;
}

__global__ void ScaleKernel(float* x, int64_t count, float factor) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step)
    x[i] *= factor;
}

__global__ void SubtractKernel(const float* a, const float* b, int64_t count, float* out) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step)
    out[i] = a[i] - b[i];
}

dim3 Tiles(int64_t columns, int64_t rows) {
  return {static_cast<unsigned>(CeilDiv<int64_t>(columns, kTile)),
          static_cast<unsigned>(CeilDiv<int64_t>(rows, kTile))};
}
constexpr dim3 kTileThreads(kTile, kTileRows);

}  // namespace

void LaunchDifference(const RowsView& ahead, const RowsView& behind, const float* bias,
                      int64_t rows, int64_t width, float* out, cudaStream_t stream) {
  const int64_t count = rows * width;
  if (count == 0) return;
  DifferenceKernel<<<Ctas(count), kThreads, 0, stream>>>(ahead, behind, bias, count, width, out);
  CheckLaunch("fit_difference");
}

void LaunchAddEnergy(const float* x, int64_t rows, int64_t width, double* energy,
                     cudaStream_t stream) {
  EnergyKernel<<<static_cast<unsigned>(CeilDiv<int64_t>(width, kColumns)), kColumns, 0, stream>>>(
      x, rows, width, energy);
  CheckLaunch("fit_energy");
}

void LaunchDamp(const float* sums, const double* energy, int64_t k, double term, double unit,
                float* h, cudaStream_t stream) {
  DampKernel<<<Tiles(k, k), kTileThreads, 0, stream>>>(
      sums, energy, k, static_cast<float>(1.0 / unit), term, unit, h);
  CheckLaunch("fit_damp");
}

void LaunchReorder(const float* h, const int32_t* order, int64_t k, float* out,
                   cudaStream_t stream) {
  ReorderKernel<<<static_cast<unsigned>(k), kThreads, 0, stream>>>(h, order, k, out);
  CheckLaunch("fit_reorder");
}

void LaunchTurn(const float* in, int64_t rows, int64_t cols, float factor, float keep, float* out,
                cudaStream_t stream) {
  TurnKernel<<<Tiles(cols, rows), kTileThreads, 0, stream>>>(in, rows, cols, factor, keep, out);
  CheckLaunch("fit_turn");
}

void LaunchTurnColumns(const float* w, int64_t n, int64_t k, const int32_t* place, float factor,
                       float* out, cudaStream_t stream) {
  TurnColumnsKernel<<<Tiles(k, n), kTileThreads, 0, stream>>>(w, n, k, place, factor, out);
  CheckLaunch("fit_turn_columns");
}

void LaunchScale(float* x, int64_t count, float factor, cudaStream_t stream) {
  ScaleKernel<<<Ctas(count), kThreads, 0, stream>>>(x, count, factor);
  CheckLaunch("fit_scale");
}

void LaunchSubtract(const float* a, const float* b, int64_t count, float* out,
                    cudaStream_t stream) {
  SubtractKernel<<<Ctas(count), kThreads, 0, stream>>>(a, b, count, out);
  CheckLaunch("fit_subtract");
}

}  // namespace fireq::sm90
