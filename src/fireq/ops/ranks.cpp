#include "fireq/ops/ranks.h"

#include <utility>

#include "fireq/ops/backend.h"

namespace fireq {

// One rank adds y to its product.
void Ranks::AddLinear(Backend& backend, LinearArgs linear) {
  const Tensor y = linear.y;
  if (share().rank != 0) {
    linear.epilogue = Epilogue::kNone;
    linear.residual = {};
  }
  backend.Linear(std::move(linear));
  Sum(y);
}

void Ranks::Linear(Backend& backend, const LinearArgs& linear) { backend.Linear(linear); }

}  // namespace fireq
