// A random weight, packed and on the device.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::testing {

// [n, k] with codes, scales and zero points of any bits but a scale's NaN. Outputs are of sensible
// size: sums are divided by `shrink` sqrt(k).
struct WeightOnDevice {
  WeightTileLayout layout;
  sm90::DeviceBuffer<uint8_t> tiles;
  sm90::DeviceBuffer<float> row_scales;

  WeightOnDevice(int64_t n, int64_t k, float shrink, std::mt19937& rng) : layout{n, k} {
    std::vector<uint8_t> codes(static_cast<size_t>(n * k / 2)),
        scales(static_cast<size_t>(n * layout.groups())), zeros(scales.size());
    for (auto& c : codes) c = static_cast<uint8_t>(rng());
    for (auto& s : scales) s = static_cast<uint8_t>(32 + rng() % 24);
    for (auto& z : zeros) z = static_cast<uint8_t>(6 + rng() % 4);
    const std::vector<WeightI4Part> parts = {
        {n, codes.data(), scales.data(), zeros.data(), shrink * std::sqrt(static_cast<float>(k))}};
    std::vector<uint8_t> packed(static_cast<size_t>(layout.size_bytes()));
    std::vector<float> of_rows(static_cast<size_t>(n));
    PackWeightTiles(parts, k, RowOrder::kStacked, 0, layout.row_blocks(), packed.data(),
                    of_rows.data());
    tiles = sm90::DeviceBuffer<uint8_t>(packed);
    row_scales = sm90::DeviceBuffer<float>(of_rows);
  }
};

}  // namespace fireq::testing
