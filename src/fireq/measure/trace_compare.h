// Which tensor of a forward pass differs between two backends, and by how much.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "fireq/model/model.h"

namespace fireq {

// A model as two backends have it prepared.
struct ModelOn {
  Backend* backend = nullptr;
  const Model* model = nullptr;
};

struct TensorDifference {
  int64_t layer = -1;  // -1: outside the blocks
  std::string name;    // as ops/trace.h has them
  // ||a - b|| / ||a|| over all values; NaN if either has one.
  double relative_error = 0.0;
};

// One forward of `ids` as one sequence, in the order of the pass. Every block gets the same input
// on both (that of `reference`), so a difference is of its own block: what the blocks in front
// rounded differently does not add up. Throws as a forward does.
std::vector<TensorDifference> CompareTraces(const ModelOn& reference, const ModelOn& other,
                                            std::span<const int32_t> ids, Products products);

}  // namespace fireq
