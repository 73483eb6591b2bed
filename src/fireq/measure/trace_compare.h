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
  std::string name;    // as ops/trace.h has them, and "keys" and "values": the cache
  // ||a - b|| / ||a|| over all values; NaN if either has one.
  double relative_error = 0.0;
  // <a, b> / <a, a> - 1: how much larger `other` is as a whole. Roundings that fall either way
  // leave it near nothing, a sum that is cut off does not.
  double gain = 0.0;
  double changed = 0.0;  // share of the values that differ at all
};

// One forward of `ids` as one sequence, in the order of the pass. Every op gets the same inputs on
// both (what the op before made on `reference`), so a difference is of that op alone: nothing that
// was rounded differently before adds up. Throws as a forward does.
std::vector<TensorDifference> CompareTraces(const ModelOn& reference, const ModelOn& other,
                                            std::span<const int32_t> ids, Products products);

}  // namespace fireq
