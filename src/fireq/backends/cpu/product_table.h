// All products an INT4 weight can make, as BF16: one row of 16 for each (zero point, scale).
//
// (q - z) * s has at most 8 significant bits and its E4M3 rounding fewer, so both products of the
// served arithmetic are exact in BF16, and a kernel turns codes into operands by one 16-entry
// look-up a group, whichever product is asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "fireq/formats/bf16.h"
#include "fireq/formats/weight_i4.h"

namespace fireq::cpu {

// How a row of 16 products lies: whole words, or low bytes then high bytes (for byte shuffles).
enum class ProductLayout : uint8_t { kWords, kSplitBytes };

inline constexpr int kProductsPerRow = 16;

// Row number of (z, s): what a weight's `index` holds a group.
constexpr uint16_t ProductRow(uint8_t zero, e4m3_t scale) {
  return static_cast<uint16_t>(zero << 8 | scale);
}
constexpr uint8_t ZeroOf(uint16_t row) { return static_cast<uint8_t>(row >> 8); }
constexpr e4m3_t ScaleOf(uint16_t row) { return static_cast<e4m3_t>(row & 0xFF); }

class ProductTable {
 public:
  // `products` is kTable or kExact.
  ProductTable(Products products, ProductLayout layout);

  // [4096][16] words, 64-byte aligned rows are not needed: 32 bytes a row.
  const uint16_t* data() const { return words_.data(); }

 private:
  std::vector<uint16_t> words_;
};

}  // namespace fireq::cpu
