// Which sequences of a batch go through the decode kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fireq/ops/args.h"

namespace fireq::sm90 {

// Sequences of up to this many new tokens go through the decode kernel.
inline constexpr int64_t kDecodeQueries = 8;

// Sequences [begin, end) of a batch and the longest of their runs of tokens.
struct SequenceRange {
  int64_t begin, end, max_query_len;
};

// How many of the first sequences go through the decode kernels: all, if all runs are short, else
// those of one token.
inline int64_t ShortSequences(const BatchView& batch) {
  if (batch.max_query_len <= kDecodeQueries) return batch.num_sequences;
  const auto end = std::ranges::find_if(batch.query_lens, [](int32_t n) { return n > 1; });
  return end - batch.query_lens.begin();
}

// The longest of their runs of tokens.
inline int64_t ShortQueryLen(const BatchView& batch) {
  return batch.max_query_len <= kDecodeQueries ? batch.max_query_len : 1;
}

// Those of them that attention sends through its decode kernel.
inline SequenceRange DecodedSequences(const BatchView& batch, Reduction reduction) {
  // The decode kernel splits the work of all sequences evenly, so its sums depend on the batch.
  if (reduction == Reduction::kBatchInvariant) return {0, 0, 0};
  return {0, ShortSequences(batch), ShortQueryLen(batch)};
}

}  // namespace fireq::sm90
