// The public name of a product and the library's own.
#pragma once

#include "fireq/api/fireq.h"
#include "fireq/formats/weight_i4.h"

namespace fireq {

inline Products ToProducts(ProductsMode mode) {
  switch (mode) {
    case ProductsMode::kTable:
      return Products::kTable;
    case ProductsMode::kExact:
      return Products::kExact;
    case ProductsMode::kServed:
      break;
  }
  return Products::kServed;
}

}  // namespace fireq
