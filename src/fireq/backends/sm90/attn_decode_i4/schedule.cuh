// Split-KV over CTAs: the cache's pages, counted sequence by sequence, KV head by head, are one
// long line. A segment is the run of one sequence, head and row tile. Where segments are few and
// much alike each is cut into the same number of pieces, one a CTA; else every CTA takes as many
// pages of the line as others, in which segments begin and end anywhere. Where CTAs have many
// segments, whose costs count, lists say what each CTA does (lists.h).
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/line.h"
#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

struct DecodeSegment {
  int32_t begin;  // first unit (page) on the line
  int32_t pages;
  int32_t sequence;
  int32_t head;         // KV head
  int32_t row_tile;     // of query rows
  int32_t first_query;  // of the sequence
  int32_t queries;
  int32_t context;

  // Of row `row` of the tile of kRows: which of the sequence's queries it belongs to, and its index
  // [T, H], -1 for a row that is not there.
  template <int kRows>
  __device__ int QueryOf(const AttnDecodeParams& p, int row) const {
    return queries == 1 ? 0 : (row_tile * kRows + row) / p.group;
  }
  template <int kRows>
  __device__ int64_t RowIndex(const AttnDecodeParams& p, int row) const {
    const int index = row_tile * kRows + row;
    if (index >= queries * p.group) return -1;
    const int query = QueryOf<kRows>(p, row);
    return int64_t{first_query + query} * p.num_heads + head * p.group + index - query * p.group;
  }
};

// What a CTA does: the units [begin, end).
struct DecodePiece {
  int32_t begin;
  int32_t end;
  DecodeCuts cuts;        // of the line or, where segments are cut, only `size`, of a segment
  int32_t first_cta;      // of the segment, where segments are cut; -1: the line is
  DecodeSegment segment;  // the only one, where segments are cut

  // Of a segment's `count` parts those that CTA `cta`'s cluster has: the segment's first CTA is a
  // cluster's first.
  __device__ int32_t OfCluster(int32_t count, int32_t cta, int32_t cluster) const {
    return min(count - ((cta & -cluster) - first_cta), cluster);
  }

  // The CTAs first .. first + count - 1 that share a segment.
  __device__ int32_t First(const DecodeSegment& shared) const {
    return first_cta >= 0 ? first_cta : cuts.Owner(shared.begin);
  }
  __device__ int32_t Count(const DecodeSegment& shared) const {
    if (first_cta >= 0) return Quotient(shared.pages + cuts.size - 1, cuts.size);
    return cuts.Owner(shared.begin + shared.pages - 1) - First(shared) + 1;
  }

  __device__ int32_t StopOf(const DecodeSegment& part) const {
    return min(part.begin + part.pages, end);
  }
};

class DecodeSchedule {
 public:
  // `prefix` i32 [S + 1] in shared memory: pages before each sequence. Filled by Prepare.
  __device__ DecodeSchedule(const AttnDecodeParams& p, uint8_t* prefix)
      : p_(p), prefix_(reinterpret_cast<int32_t*>(prefix)) {}

  // One warp, for all of a CTA of which `warps` compute: a barrier must lie between this and what
  // the others do.
  __device__ __forceinline__ void Prepare(int32_t warps, DecodePiece& piece) {
    constexpr int kChunks = 4;  // of 32 sequences, their lengths on the way together
    const int lane = static_cast<int>(threadIdx.x & 31);
    if (lane == 0) prefix_[0] = 0;
    int32_t total = 0;
    int32_t longest = 0;
    for (int base = 0; base < p_.num_sequences; base += 32 * kChunks) {
      int32_t pages[kChunks];
#pragma unroll
      for (int i = 0; i < kChunks; ++i) pages[i] = PagesOf(base + 32 * i + lane);
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        const int s = base + 32 * i + lane;
        if (s - lane >= p_.num_sequences) break;
        longest = max(longest, pages[i]);
        int32_t sum = pages[i];
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
          const int32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
          if (lane >= step) sum += other;
        }
        if (s < p_.num_sequences) prefix_[s + 1] = total + sum;
        total += __shfl_sync(0xFFFFFFFFu, sum, 31);
      }
    }
    longest = __reduce_max_sync(0xFFFFFFFFu, longest);
    __syncwarp();
    if (lane == 0) Divide(total * tracks(), longest, warps, piece);
  }

  __device__ DecodeSegment Find(int32_t unit) const {
    int low = 0;
    int high = p_.num_sequences;  // prefix[low] <= unit / tracks < prefix[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (prefix_[middle] * tracks() <= unit) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const int32_t pages = prefix_[low + 1] - prefix_[low];
    return Segment(low, Quotient(unit - prefix_[low] * tracks(), pages));
  }

 private:
  __device__ DecodeSegment Segment(int32_t sequence, int32_t track) const {
    DecodeSegment segment;
    segment.pages = prefix_[sequence + 1] - prefix_[sequence];
    segment.begin = prefix_[sequence] * tracks() + track * segment.pages;
    segment.sequence = sequence;
    segment.head = p_.row_tiles == 1 ? track : track / p_.row_tiles;
    segment.row_tile = track - segment.head * p_.row_tiles;
    segment.first_query = p_.query_start[sequence];
    segment.queries = p_.query_start[sequence + 1] - segment.first_query;
    segment.context = p_.context_len[sequence];
    return segment;
  }

  // Units fit: 2^31 pages of one head are 18 TB.
  __device__ __forceinline__ void Divide(int32_t units, int32_t longest, int32_t warps,
                                         DecodePiece& piece) const {
    const int32_t ctas = static_cast<int32_t>(gridDim.x);
    const int32_t cta = static_cast<int32_t>(blockIdx.x);
    const int32_t size = Rounds(p_.by_ctas.Divide(units + ctas - 1), warps);
    // Where cutting segments makes no piece longer than this, its parts, which are fewer, are worth
    // more than equal pieces.
    const int32_t allowed = size + 4;
    if (p_.cuts > 0 && longest <= allowed * p_.cuts) {
      // No more cuts than the longest segment has rounds, but whole clusters, so that CTAs with
      // work are the first of the grid, each with an SM to itself as long as there are SMs.
      const int32_t rounds = max(Rounds(longest, warps) / warps, 1);
      const int32_t cuts = min(p_.cuts, (rounds + p_.cluster - 1) & -p_.cluster);
      const int32_t segment = Quotient(cta, cuts);
      const int32_t part = cta - segment * cuts;
      const int32_t sequence = p_.by_tracks.Divide(segment);
      piece.begin = piece.end = 0;
      if (sequence >= p_.num_sequences) return;
      piece.segment = Segment(sequence, segment - sequence * tracks());
      const int32_t pages = piece.segment.pages;
      piece.cuts.size = max(Rounds(Quotient(pages + cuts - 1, cuts), warps), warps);
      piece.begin = piece.segment.begin + min(part * piece.cuts.size, pages);
      piece.end = piece.segment.begin + min((part + 1) * piece.cuts.size, pages);
      piece.first_cta = segment * cuts;
    } else {
      piece.cuts = DecodeCuts::Of(Rounds(units, warps) / warps, ctas, p_.by_ctas, warps);
      piece.begin = min(piece.cuts.Begin(cta), units);
      piece.end = min(piece.cuts.Begin(cta + 1), units);
      piece.first_cta = -1;
    }
  }

  // `warps` is known to the compiler.
  static __device__ __forceinline__ int32_t Rounds(int32_t pages, int32_t warps) {
    const uint32_t round = static_cast<uint32_t>(warps);
    return static_cast<int32_t>((static_cast<uint32_t>(pages) + round - 1) / round * round);
  }

  __device__ int32_t tracks() const { return p_.kv_heads * p_.row_tiles; }
  // A sequence with queries but no context still owns one (unread) page: its output is zero.
  __device__ int32_t PagesOf(int s) const {
    const int there = min(s, p_.num_sequences - 1);  // no branch: all three loads are in flight
    const int32_t first = LoadGlobalNow(p_.query_start + there);
    const int32_t next = LoadGlobalNow(p_.query_start + there + 1);
    const int32_t context = LoadGlobalNow(p_.context_len + there);
    const int32_t queries = next - first;
    const int32_t pages = (context + kTokensPerPage - 1) / kTokensPerPage;
    return s < p_.num_sequences && queries != 0 ? max(pages, 1) : 0;
  }

  const AttnDecodeParams& p_;
  int32_t* prefix_;
};

}  // namespace fireq::sm90
