// Split-KV over CTAs: the cache's pages, counted sequence by sequence, KV head by head, are one
// long line, and CTA b takes an equal piece of it. A segment is the run of one sequence, head and
// row tile; it may begin or end inside a CTA's piece.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

struct DecodeSegment {
  int32_t begin;  // first unit (page) on the line
  int32_t pages;
  int32_t sequence;
  int32_t head;      // KV head
  int32_t row_tile;  // of query rows
};

class DecodeSchedule {
 public:
  // `prefix` [S + 1] in shared memory: pages before each sequence. Filled by Prepare.
  __device__ DecodeSchedule(const AttnDecodeParams& p, int32_t* prefix) : p_(p), prefix_(prefix) {}

  // All threads of the CTA; `scratch` [16] in shared memory. Ends with a barrier.
  __device__ void Prepare(int32_t* scratch) {
    int32_t total = 0;
    if (threadIdx.x == 0) prefix_[0] = 0;
    for (int base = 0; base < p_.num_sequences; base += static_cast<int>(blockDim.x)) {
      const int s = base + static_cast<int>(threadIdx.x);
      int32_t sum = s < p_.num_sequences ? PagesOf(s) : 0;
      for (int step = 1; step < 32; step *= 2) {
        const int32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
        if ((threadIdx.x & 31) >= step) sum += other;
      }
      if ((threadIdx.x & 31) == 31) scratch[threadIdx.x / 32] = sum;
      __syncthreads();
      int32_t before = total;
      for (uint32_t w = 0; w < blockDim.x / 32; ++w) {
        before += w < threadIdx.x / 32 ? scratch[w] : 0;
        total += scratch[w];
      }
      if (s < p_.num_sequences) prefix_[s + 1] = before + sum;
      __syncthreads();
    }
    units_ = total * tracks();
    // No CTA between two of a segment's may go without a unit: it would never arrive.
    ctas_ = static_cast<uint32_t>(units_) < gridDim.x ? units_ : static_cast<int32_t>(gridDim.x);
  }

  // First unit of CTA `cta`'s piece; the number of units for CTAs without work.
  __device__ int32_t Start(uint32_t cta) const {
    const uint32_t ctas = static_cast<uint32_t>(ctas_);
    if (cta >= ctas) return units_;
    return static_cast<int32_t>(uint64_t{cta} * static_cast<uint32_t>(units_) / ctas);
  }
  // The CTA whose piece holds `unit`.
  __device__ int Owner(int32_t unit) const {
    return static_cast<int>(
        (uint64_t{static_cast<uint32_t>(unit) + 1} * static_cast<uint32_t>(ctas_) - 1) /
        static_cast<uint32_t>(units_));
  }

  __device__ DecodeSegment Find(int32_t unit) const {
    const int32_t line = unit / tracks();
    int low = 0;
    int high = p_.num_sequences;  // prefix[low] <= line < prefix[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (prefix_[middle] <= line) {
        low = middle;
      } else {
        high = middle;
      }
    }
    DecodeSegment segment;
    segment.sequence = low;
    segment.pages = prefix_[low + 1] - prefix_[low];
    const int32_t first = prefix_[low] * tracks();
    const int32_t track = (unit - first) / segment.pages;
    segment.begin = first + track * segment.pages;
    segment.head = track / p_.row_tiles;
    segment.row_tile = track % p_.row_tiles;
    return segment;
  }

 private:
  __device__ int32_t tracks() const { return p_.kv_heads * p_.row_tiles; }
  // A sequence with queries but no context still owns one (unread) page: its output is zero.
  __device__ int32_t PagesOf(int s) const {
    if (p_.query_start[s + 1] == p_.query_start[s]) return 0;
    const int32_t pages = (p_.context_len[s] + kTokensPerPage - 1) / kTokensPerPage;
    return pages > 0 ? pages : 1;
  }

  const AttnDecodeParams& p_;
  int32_t* prefix_;
  int32_t ctas_ = 0;   // that have work
  int32_t units_ = 0;  // fits: 2^31 pages of one head are 18 TB
};

}  // namespace fireq::sm90
