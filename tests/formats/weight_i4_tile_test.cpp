#include "fireq/formats/weight_i4_tile.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace fireq {
namespace {

struct Matrix {
  int64_t n, k;
  std::vector<uint8_t> codes, scales, zeros;
  float t;

  Matrix(int64_t rows, int64_t columns, float tensor_scale, uint32_t seed)
      : n(rows), k(columns), t(tensor_scale) {
    std::mt19937 rng(seed);
    const WeightI4Layout layout{n, k};
    codes.resize(static_cast<size_t>(layout.code_bytes()));
    scales.resize(static_cast<size_t>(layout.scale_bytes()));
    zeros.resize(scales.size());
    for (auto& v : codes) v = static_cast<uint8_t>(rng());
    for (auto& v : scales) v = static_cast<uint8_t>(1 + rng() % 0x7E);
    for (auto& v : zeros) v = static_cast<uint8_t>(rng() % 16);
  }
  WeightI4Part part() const { return {n, codes.data(), scales.data(), zeros.data(), t}; }
  int code(int64_t row, int64_t column) const {
    return CodeAt(codes.data() + row * CeilDiv<int64_t>(k, 2), column);
  }
};

TEST(WeightI4Tile, EveryNibbleOfATileHasExactlyOnePlace) {
  std::set<std::pair<int, bool>> seen;
  std::set<int> scale_bytes;
  for (int row = 0; row < kTileRows; ++row) {
    for (int column = 0; column < kGroup; ++column) {
      const TileNibble place = TileNibbleOf(row, column);
      ASSERT_GE(place.byte, 0);
      ASSERT_LT(place.byte, kTileCodeBytes);
      ASSERT_TRUE(seen.emplace(place.byte, place.high).second) << row << ", " << column;
    }
    ASSERT_TRUE(scale_bytes.insert(TileScaleByte(row)).second);
    ASSERT_TRUE(scale_bytes.insert(TileScaleByte(row) + 1).second);
  }
  EXPECT_EQ(*scale_bytes.begin(), kTileCodeBytes);
  EXPECT_EQ(*scale_bytes.rbegin(), kTileBytes - 1);
}

// The order as the wgmma fragment has it, written down a second time from the PTX document.
TEST(WeightI4Tile, WordsUnpackToTheFragmentsOfEachThread) {
  for (int thread = 0; thread < 128; ++thread) {
    const int warp = thread / 32, r = thread % 32 / 4, c = thread % 4;
    for (int step = 0; step < 4; ++step) {
      for (int reg = 0; reg < 4; ++reg) {  // a0..a3
        for (int byte = 0; byte < 4; ++byte) {
          const int row = 16 * warp + r + (reg % 2 == 1 ? 8 : 0);
          const int column = 32 * step + 4 * c + byte + (reg >= 2 ? 16 : 0);
          const int word = 2 * step + reg % 2;
          const TileNibble place = TileNibbleOf(row, column);
          EXPECT_EQ(place.byte, word / 4 * 2048 + 16 * thread + word % 4 * 4 + byte);
          EXPECT_EQ(place.high, reg >= 2);
        }
      }
    }
  }
}

void ExpectPacked(const std::vector<uint8_t>& tiles, const WeightTileLayout& layout, int64_t packed,
                  const Matrix& m, int64_t row) {
  for (int64_t column = 0; column < layout.groups() * kGroup; ++column) {
    const int64_t g = column / kGroup;
    const uint8_t* tile = tiles.data() + layout.tile_offset(packed / kTileRows, g);
    const int in_tile = static_cast<int>(packed % kTileRows);
    const TileNibble place = TileNibbleOf(in_tile, static_cast<int>(column % kGroup));
    const int code = place.high ? tile[place.byte] >> 4 : tile[place.byte] & 0xF;
    ASSERT_EQ(code, column < m.k ? m.code(row, column) : 0) << packed << ", " << column;
    ASSERT_EQ(tile[TileScaleByte(in_tile)],
              m.scales[static_cast<size_t>(row * layout.groups() + g)]);
    ASSERT_EQ(tile[TileScaleByte(in_tile) + 1],
              m.zeros[static_cast<size_t>(row * layout.groups() + g)]);
  }
}

TEST(WeightI4Tile, StackedPartsKeepTheirOrderAndTheirT) {
  const int64_t k = 576;  // a short last group
  const Matrix q(64, k, 4.0f, 1), v(128, k, 0.5f, 2);
  const std::vector<WeightI4Part> parts{q.part(), v.part()};
  const WeightTileLayout layout = TileLayoutOf(parts, k, RowOrder::kStacked);
  EXPECT_EQ(layout.groups(), 5);
  std::vector<uint8_t> tiles(static_cast<size_t>(layout.size_bytes()), 0xAA);
  std::vector<float> row_scales(static_cast<size_t>(layout.n));
  PackWeightTiles(parts, k, RowOrder::kStacked, 0, 2, tiles.data(), row_scales.data());
  PackWeightTiles(parts, k, RowOrder::kStacked, 2, 3, tiles.data(), row_scales.data());
  for (int64_t row = 0; row < layout.n; ++row) {
    ExpectPacked(tiles, layout, row, row < 64 ? q : v, row < 64 ? row : row - 64);
    EXPECT_EQ(row_scales[static_cast<size_t>(row)], row < 64 ? 0.25f : 2.0f);
  }
}

TEST(WeightI4Tile, GateAndUpAlternateByEightRows) {
  const int64_t k = 128;
  const Matrix gate(96, k, 2.0f, 3), up(96, k, 8.0f, 4);
  const std::vector<WeightI4Part> parts{gate.part(), up.part()};
  const WeightTileLayout layout = TileLayoutOf(parts, k, RowOrder::kGateUp);
  std::vector<uint8_t> tiles(static_cast<size_t>(layout.size_bytes()));
  std::vector<float> row_scales(static_cast<size_t>(layout.n));
  PackWeightTiles(parts, k, RowOrder::kGateUp, 0, layout.row_blocks(), tiles.data(),
                  row_scales.data());
  for (int64_t row = 0; row < 96; ++row) {
    const int64_t packed = row / 8 * 16 + row % 8;
    ExpectPacked(tiles, layout, packed, gate, row);
    ExpectPacked(tiles, layout, packed + 8, up, row);
    EXPECT_EQ(row_scales[static_cast<size_t>(packed)], 0.5f);
    EXPECT_EQ(row_scales[static_cast<size_t>(packed + 8)], 0.125f);
  }
}

TEST(WeightI4Tile, RefusesShapesNoKernelHas) {
  const Matrix odd(96, 128, 1.0f, 5), narrow(64, 96, 1.0f, 6), small(16, 128, 1.0f, 7);
  const std::vector<WeightI4Part> rows{odd.part()}, columns{narrow.part()},
      gate_up{small.part(), small.part(), small.part(), small.part()};
  EXPECT_THROW(TileLayoutOf(rows, 128, RowOrder::kStacked), Error);
  EXPECT_THROW(TileLayoutOf(columns, 96, RowOrder::kStacked), Error);
  EXPECT_THROW(TileLayoutOf(gate_up, 128, RowOrder::kGateUp), Error);
}

}  // namespace
}  // namespace fireq
