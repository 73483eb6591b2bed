#include "fireq/ops/ranks.h"

#include <utility>

#include "fireq/ops/backend.h"

namespace fireq {

void Ranks::AddLinear(Backend& backend, LinearArgs linear) {
  const Tensor y = linear.y;
  AddProduct(backend, std::move(linear));
  Sum(y);
}

// One rank adds y to its product.
void Ranks::AddProduct(Backend& backend, LinearArgs linear) const {
  if (share().rank != 0) {
    linear.epilogue = Epilogue::kNone;
    linear.residual = {};
  }
  backend.Linear(std::move(linear));
}

void Ranks::Linear(Backend& backend, const LinearArgs& linear) { backend.Linear(linear); }

}  // namespace fireq
