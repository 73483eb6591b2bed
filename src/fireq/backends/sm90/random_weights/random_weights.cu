#include <algorithm>

#include "fireq/backends/sm90/random_weights/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/formats/random_weight.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreadsPerRow = 2;
constexpr int kTileThreads = kTileRows * kThreadsPerRow;
constexpr int kDrawsPerRow = kGroup / kRandomCodes;
constexpr int kFillThreads = 256;
constexpr int kMaxFillCtas = 132 * 8;

// Number of packed row `packed` through all parts in their order.
__device__ int64_t LogicalRow(RowOrder order, int64_t packed, int64_t n) {
  if (order == RowOrder::kStacked) return packed;
  const int64_t within = packed % 16;
  return packed / 16 * 8 + within % 8 + (within < 8 ? 0 : n / 2);
}

// One CTA a tile, two threads a row of it.
__global__ void RandomTilesKernel(WeightTileLayout layout, RowOrder order, uint64_t seed,
                                  uint8_t* tiles) {
  __shared__ uint32_t words[kTileBytes / 4];
  for (int i = threadIdx.x; i < kTileBytes / 4; i += kTileThreads) words[i] = 0;
  __syncthreads();  // codes are or-ed into zeros
  const int64_t group = blockIdx.x;
  const int row = static_cast<int>(threadIdx.x) / kThreadsPerRow;
  const int64_t logical = LogicalRow(order, int64_t{blockIdx.y} * kTileRows + row, layout.n);
  for (int d = threadIdx.x % kThreadsPerRow; d < kDrawsPerRow; d += kThreadsPerRow) {
    const PhiloxBlock draw = RandomCodes(seed, logical, group * kDrawsPerRow + d);
    for (int i = 0; i < kRandomCodes; ++i) {
      const int column = d * kRandomCodes + i;
      if (group * kGroup + column >= layout.k) break;
      const TileNibble place = TileNibbleOf(row, column);
      const int shift = 8 * (place.byte % 4) + (place.high ? 4 : 0);
      // Two threads may own nibbles of one word.
      atomicOr(&words[place.byte / 4], static_cast<uint32_t>(RandomCode(draw, i)) << shift);
    }
  }
  if (threadIdx.x % kThreadsPerRow == 0) {
    const RandomGroup values = RandomGroupOf(seed, logical, group);
    auto* bytes = reinterpret_cast<uint8_t*>(words);
    bytes[TileScaleByte(row)] = values.scale;
    bytes[TileScaleByte(row) + 1] = values.zero;
  }
  __syncthreads();  // the tile is whole before it is copied
  auto* out = reinterpret_cast<uint32_t*>(tiles + layout.tile_offset(blockIdx.y, group));
  for (int i = threadIdx.x; i < kTileBytes / 4; i += kTileThreads) out[i] = words[i];
}

__global__ void RandomBf16Kernel(uint64_t seed, int64_t count, float spread, bf16_t* out) {
  const int64_t step = int64_t{gridDim.x} * kFillThreads;
  for (int64_t i = int64_t{blockIdx.x} * kFillThreads + threadIdx.x; i < count; i += step)
    out[i] = RandomBf16Of(seed, i, spread);
}

}  // namespace

void LaunchRandomTiles(const WeightTileLayout& layout, RowOrder order, uint64_t seed,
                       uint8_t* tiles, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(layout.groups()),
                  static_cast<unsigned>(layout.row_blocks()));
  RandomTilesKernel<<<grid, kTileThreads, 0, stream>>>(layout, order, seed, tiles);
  CheckLaunch("random_tiles");
}

void LaunchRandomBf16(uint64_t seed, int64_t count, float spread, bf16_t* out,
                      cudaStream_t stream) {
  if (count == 0) return;
  const int64_t ctas = std::min<int64_t>(kMaxFillCtas, CeilDiv<int64_t>(count, kFillThreads));
  RandomBf16Kernel<<<static_cast<unsigned>(ctas), kFillThreads, 0, stream>>>(seed, count, spread,
                                                                             out);
  CheckLaunch("random_bf16");
}

}  // namespace fireq::sm90
