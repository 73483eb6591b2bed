// From host-side descriptions of sequences to the flat arrays a forward pass reads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fireq/ops/backend.h"

namespace fireq {

// What one sequence adds in a step.
struct SequenceStep {
  std::span<const int32_t> ids;    // new tokens, at least one
  int64_t position = 0;            // position of ids[0] = tokens already in the cache
  std::span<const int32_t> pages;  // the sequence's pages in order, enough for position + ids
};

// The arrays of a batch begin at multiples of so many values in one allocation.
inline constexpr int64_t kBatchArrayAlign = 32;

// Uploads the arrays of `steps` in order. Throws kInvalidArgument if a page is missing.
BatchView MakeBatch(Backend& backend, std::span<const SequenceStep> steps);

}  // namespace fireq
