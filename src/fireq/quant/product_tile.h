// A tile of x^T y, compiled for every vector width.
#pragma once

#include <cstdint>

namespace fireq::quant {

struct ProductTile {
  const float* left = nullptr;  // [rows, ..] from the tile's columns on
  const float* right = nullptr;
  int64_t left_stride = 0, right_stride = 0;
  int64_t down = 0, across = 0;  // columns of each
  float* out = nullptr;
  int64_t out_stride = 0;
};

// out [down, across] += left^T right over `rows` rows, summed in their order.
void AddTile(const ProductTile& tile, int64_t rows);

}  // namespace fireq::quant
