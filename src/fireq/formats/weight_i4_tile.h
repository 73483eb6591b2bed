// The tile order in which the sm_90a GEMM reads a quantised weight: made at load, kept on the
// device.
//
// A tile is 64 output rows x one group of 128 along K, 4224 contiguous bytes, in the order in which
// the 128 threads of a warpgroup want it as the A operand of wgmma m64k32:
//   4096 bytes of codes: thread t = 32 w + 4 r + c (warp w, r 0..7, c 0..3) reads 16 bytes at 16 t
//     and 16 bytes at 2048 + 16 t: words i = 0..7. Word i holds, of row 16 w + r + 8 (i % 2), step
//     s = i / 2: nibble 2 b is column 32 s + 4 c + b, nibble 2 b + 1 is column 32 s + 16 + 4 c + b
//     (b 0..3). So word & 0x0F0F0F0F is one operand register, (word >> 4) & 0x0F0F0F0F another.
//   128 bytes of scales: at 4096 + 4 (8 w + r): scale and zero point of row 16 w + r, then of row
//     16 w + r + 8 (E4M3, U8, E4M3, U8).
// Tiles follow one another along K, then along N. Columns past K have code 0 (the activation is 0
// there). A fused weight's rows are its parts stacked; gate|up are interleaved by 8 (packed rows
// 16 b .. 16 b + 7 are gate rows 8 b .., 16 b + 8 .. are up rows 8 b ..), so that one thread holds
// gate and up of the same output. 1/t goes into one float a packed row.
// Source: PTX ISA, wgmma register fragments of 8-bit A; logical form: formats/weight_i4.h.
#pragma once

#include <cstdint>
#include <span>

#include "fireq/base/math.h"
#include "fireq/formats/weight_i4.h"

namespace fireq {

inline constexpr int kTileRows = 64;
inline constexpr int kTileCodeBytes = kTileRows * kGroup / 2;
inline constexpr int kTileScaleBytes = kTileRows * 2;
inline constexpr int kTileBytes = kTileCodeBytes + kTileScaleBytes;

struct WeightTileLayout {
  int64_t n = 0;  // packed output rows, a multiple of 64
  int64_t k = 0;  // input columns, a multiple of 64

  FIREQ_HD constexpr int64_t row_blocks() const { return n / kTileRows; }
  FIREQ_HD constexpr int64_t groups() const { return CeilDiv<int64_t>(k, kGroup); }
  FIREQ_HD constexpr int64_t size_bytes() const { return row_blocks() * groups() * kTileBytes; }
  FIREQ_HD constexpr int64_t tile_offset(int64_t row_block, int64_t group) const {
    return (row_block * groups() + group) * kTileBytes;
  }
};

// Where the code of (row, column) of a tile lies: byte of the tile, and whether its high nibble.
struct TileNibble {
  int byte;
  bool high;
};
FIREQ_HD constexpr TileNibble TileNibbleOf(int row, int column) {
  const int warp = row / 16, r = row % 8, half = (row % 16) / 8;
  const int step = column / 32, upper = (column % 32) / 16, c = (column % 16) / 4, b = column % 4;
  const int thread = 32 * warp + 4 * r + c;
  const int word = 2 * step + half;
  return {(word / 4) * (kTileCodeBytes / 2) + thread * 16 + (word % 4) * 4 + b, upper == 1};
}
// Where the scale of `row` lies; its zero point is the next byte.
FIREQ_HD constexpr int TileScaleByte(int row) {
  return kTileCodeBytes + 4 * (8 * (row / 16) + row % 8) + 2 * ((row % 16) / 8);
}

// One matrix of a (fused) weight in its logical order, on the host (formats/weight_i4.h).
struct WeightI4Part {
  int64_t n = 0;                    // rows
  const uint8_t* codes = nullptr;   // [n, ceil(k/2)]
  const uint8_t* scales = nullptr;  // E4M3 [n, ceil(k/128)]
  const uint8_t* zeros = nullptr;   // [n, ceil(k/128)]
  float t = 1.0f;                   // a power of two
};

enum class RowOrder : uint8_t { kStacked, kGateUp };

// Rows of all parts together. Throws kUnsupported if that or `k` is no multiple of 64, or (kGateUp)
// unless there are two parts of equal n, a multiple of 32.
WeightTileLayout TileLayoutOf(std::span<const WeightI4Part> parts, int64_t k, RowOrder order);

// Packs row blocks [begin, end) into `tiles` (the whole weight's size_bytes()) and the 1/t of their
// rows into `row_scales` [layout.n]. Calls on disjoint ranges may run at once.
void PackWeightTiles(std::span<const WeightI4Part> parts, int64_t k, RowOrder order, int64_t begin,
                     int64_t end, uint8_t* tiles, float* row_scales);

}  // namespace fireq
