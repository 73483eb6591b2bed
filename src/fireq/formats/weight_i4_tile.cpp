#include "fireq/formats/weight_i4_tile.h"

#include <algorithm>

namespace fireq {
namespace {

struct SourceRow {
  const WeightI4Part* part;
  int64_t row;
};

SourceRow SourceOf(std::span<const WeightI4Part> parts, RowOrder order, int64_t packed) {
  if (order == RowOrder::kGateUp) {
    const int64_t within = packed % 16;
    return {&parts[within < 8 ? 0 : 1], packed / 16 * 8 + within % 8};
  }
  size_t i = 0;
  while (packed >= parts[i].n) packed -= parts[i++].n;
  return {&parts[i], packed};
}

void PackRow(const uint8_t* codes, int64_t columns, int row, uint8_t* tile) {
  for (int column = 0; column < columns; ++column) {
    const TileNibble place = TileNibbleOf(row, column);
    const int shift = place.high ? 4 : 0;
    tile[place.byte] = static_cast<uint8_t>(tile[place.byte] | (CodeAt(codes, column) << shift));
  }
}

}  // namespace

WeightTileLayout TileLayoutOf(std::span<const WeightI4Part> parts, int64_t k, RowOrder order) {
  int64_t n = 0;
  for (const WeightI4Part& part : parts) n += part.n;
  FIREQ_CHECK(n > 0 && n % kTileRows == 0 && k > 0 && k % 64 == 0, kUnsupported, "a weight of ", n,
              " x ", k, ": rows and columns must be multiples of 64");
  FIREQ_CHECK(order == RowOrder::kStacked ||
                  (parts.size() == 2 && parts[0].n == parts[1].n && parts[0].n % 32 == 0),
              kUnsupported, "gate and up of ", parts[0].n, " rows, ", parts.size(), " parts");
  return {n, k};
}

void PackWeightTiles(std::span<const WeightI4Part> parts, int64_t k, RowOrder order, int64_t begin,
                     int64_t end, uint8_t* tiles, float* row_scales) {
  const WeightTileLayout layout = TileLayoutOf(parts, k, order);
  const int64_t groups = layout.groups();
  const int64_t row_bytes = CeilDiv<int64_t>(k, 2);
  std::fill(tiles + layout.tile_offset(begin, 0), tiles + layout.tile_offset(end, 0), uint8_t{0});
  for (int64_t packed = begin * kTileRows; packed < end * kTileRows; ++packed) {
    const SourceRow source = SourceOf(parts, order, packed);
    const WeightI4Part& part = *source.part;
    const int row = static_cast<int>(packed % kTileRows);
    for (int64_t g = 0; g < groups; ++g) {
      uint8_t* tile = tiles + layout.tile_offset(packed / kTileRows, g);
      PackRow(part.codes + source.row * row_bytes + g * (kGroup / 2),
              std::min<int64_t>(kGroup, k - g * kGroup), row, tile);
      tile[TileScaleByte(row)] = part.scales[source.row * groups + g];
      tile[TileScaleByte(row) + 1] = part.zeros[source.row * groups + g];
    }
    row_scales[packed] = 1.0f / part.t;
  }
}

}  // namespace fireq
