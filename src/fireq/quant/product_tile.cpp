#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/quant/product_tile.cpp"
#include "fireq/quant/product_tile.h"

#include <algorithm>
#include <vector>

#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After foreach_target.h: once a target.
#include "fireq/quant/row_sums.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::quant::HWY_NAMESPACE {

void Tile(const ProductTile& tile, int64_t rows) {
  constexpr int64_t kDepth = 64;  // rows that are laid close together at a time
  const int64_t slabs = CeilDiv(tile.across, kRowWidth);
  Matrix<float> left(kDepth, tile.down), right(kDepth, kRowWidth);
  Matrix<float> sums(tile.down, slabs * kRowWidth);
  for (int64_t i = 0; i < tile.down; ++i)
    std::copy_n(tile.out + i * tile.out_stride, tile.across, sums.row(i));
  std::vector<const float*> factors;
  for (int64_t t = 0; t < kDepth; ++t) factors.push_back(left.row(t));
  for (int64_t first = 0; first < rows; first += kDepth) {
    const int64_t depth = std::min(kDepth, rows - first);
    for (int64_t t = 0; t < depth; ++t)
      std::copy_n(tile.left + (first + t) * tile.left_stride, tile.down, left.row(t));
    for (int64_t slab = 0; slab < slabs; ++slab) {
      const int64_t j = slab * kRowWidth;
      const int64_t width = std::min(kRowWidth, tile.across - j);
      for (int64_t t = 0; t < depth; ++t)
        std::copy_n(tile.right + (first + t) * tile.right_stride + j, width, right.row(t));
      AddSums(std::span(factors).first(static_cast<size_t>(depth)), 0, tile.down, right.row(0),
              sums.row(0) + j, sums.cols);
    }
  }
  for (int64_t i = 0; i < tile.down; ++i)
    std::copy_n(sums.row(i), tile.across, tile.out + i * tile.out_stride);
}

}  // namespace fireq::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq::quant {
HWY_EXPORT(Tile);
void AddTile(const ProductTile& tile, int64_t rows) { HWY_DYNAMIC_DISPATCH(Tile)(tile, rows); }
}  // namespace fireq::quant
#endif
