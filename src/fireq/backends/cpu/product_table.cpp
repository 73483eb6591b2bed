#include "fireq/backends/cpu/product_table.h"

namespace fireq::cpu {

ProductTable::ProductTable(Products products, ProductLayout layout)
    : words_(size_t{16} * 256 * kProductsPerRow) {
  for (int zero = 0; zero <= kCodeMax; ++zero) {
    for (int scale = 0; scale < 256; ++scale) {
      uint16_t* row =
          &words_[size_t{ProductRow(static_cast<uint8_t>(zero), static_cast<e4m3_t>(scale))} *
                  kProductsPerRow];
      auto* bytes = reinterpret_cast<uint8_t*>(row);
      const float s = E4M3ToFloat(static_cast<e4m3_t>(scale));
      for (int code = 0; code <= kCodeMax; ++code) {
        const float product = products == Products::kTable ? TableProduct(code, zero, s)
                                                           : ExactProduct(code, zero, s);
        const bf16_t word = FloatToBf16(product);
        if (layout == ProductLayout::kWords) {
          row[code] = word;
        } else {
          bytes[code] = static_cast<uint8_t>(word & 0xFF);
          bytes[16 + code] = static_cast<uint8_t>(word >> 8);
        }
      }
    }
  }
}

}  // namespace fireq::cpu
