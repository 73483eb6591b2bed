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

// The arrays of a step in memory taken once. Where each of them lies depends on the numbers of
// tokens and sequences and on `max_pages` alone, so work recorded for one step runs for every other
// step of the same numbers.
class BatchArrays {
 public:
  // For steps of up to so many tokens, sequences and pages a sequence.
  BatchArrays(Backend& backend, int64_t max_tokens, int64_t max_sequences, int64_t max_pages);

  int64_t size_bytes() const { return values_.size_bytes(); }

  // Uploads the arrays of `steps` in order; `max_pages` is the width of the page table. Behind them
  // come as many sequences as `fillers` says, without tokens, and tokens of id 0 that are nobody's:
  // they go through the linears, not into the cache. The view is good until the next Fill. Throws
  // kInvalidArgument if a page is missing.
  BatchView Fill(std::span<const SequenceStep> steps, int64_t max_pages, int64_t fillers = 0);

 private:
  Backend& backend_;
  Tensor values_;   // I32, in the backend's memory
  Tensor staging_;  // the same on the host
};

// Pages of the longest of `steps`, at least one.
int64_t MaxPages(std::span<const SequenceStep> steps);

// The arrays of one step, in memory of their own.
BatchView MakeBatch(Backend& backend, std::span<const SequenceStep> steps);

}  // namespace fireq
