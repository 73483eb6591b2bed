// The line of pages of all sequences and heads, and where it is cut into pieces, one a CTA: integer
// arithmetic, the same on the host and the device.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/base/macros.h"

namespace fireq::sm90 {

// a / b, which is below 2^20: a float is at most one off.
FIREQ_HD inline int32_t Quotient(int32_t a, int32_t b) {
#ifdef __CUDA_ARCH__
  const int32_t q = static_cast<int32_t>(__fdividef(static_cast<float>(a), static_cast<float>(b)));
#else
  const int32_t q = static_cast<int32_t>(static_cast<float>(a) / static_cast<float>(b));
#endif
  const int32_t rest = a - q * b;
  return rest < 0 ? q - 1 : (rest >= b ? q + 1 : q);
}

// Pages that a segment costs besides its own. The warp that finishes needs for a part what a CTA
// needs for kDecodeLeastCost pages; behind so many it does so while the others compute on.
FIREQ_HD constexpr int32_t DecodeExtraCost(int32_t pages) {
  return pages == 0 || pages >= kDecodeLeastCost ? 0 : kDecodeLeastCost - pages;
}

// A line of some cost in pieces of whole rounds of a CTA's warps, because a round takes its time
// whether or not every warp has a page, and fewer parts are combined sooner.
struct DecodeCuts {
  int32_t size;    // of all but the first `longer`, which have
  int32_t longer;  // one round more,
  int32_t round;   // a CTA's warps

  FIREQ_HD static DecodeCuts Of(int32_t rounds, int32_t ctas, const ShortDivisor& by_ctas,
                                int32_t warps) {
    int32_t least = by_ctas.Divide(rounds);
    if (least * ctas > rounds) --least;  // the quotient was one too large
    return {least * warps, rounds - least * ctas, warps};
  }
  // Where CTA `cta` begins, which may be behind the line's end, and who has a place on the line.
  FIREQ_HD int32_t Begin(int32_t cta) const {
    return cta * size + (cta < longer ? cta : longer) * round;
  }
  FIREQ_HD int32_t Owner(int32_t place) const {
    const int32_t rest = place - longer * (size + round);
    return rest < 0 ? Quotient(place, size + round) : longer + Quotient(rest, size);
  }
};

// Units (pages) of segments one behind the other, and what they cost: a segment's pages and its
// extra cost. Of a segment of kDecodeLeastCost pages and more every page costs one. A shorter one
// is never cut: what is cut behind its beginning begins with it.
struct DecodeLine {
  const int32_t* pages;   // [S + 1] before each sequence, of one track (a KV head's row tile)
  const uint16_t* extra;  // [S + 1], cost likewise
  int32_t num_sequences;
  int32_t tracks;

  FIREQ_HD int32_t CostBefore(int32_t sequence) const {
    return (pages[sequence] + extra[sequence]) * tracks;
  }
  FIREQ_HD int32_t cost() const { return CostBefore(num_sequences); }

  // Of 0 .. cost(): the unit that a piece begins with which is cut there.
  FIREQ_HD int32_t UnitAt(int32_t cost) const {
    if (extra[num_sequences] == 0) return cost;
    int32_t low = 0;
    int32_t high = num_sequences;  // CostBefore(low) <= cost < CostBefore(high), but at the end
    while (high - low > 1) {
      const int32_t middle = (low + high) / 2;
      if (CostBefore(middle) <= cost) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const int32_t behind = cost - CostBefore(low);
    const int32_t of_each = pages[low + 1] - pages[low];
    return pages[low] * tracks +
           (of_each < kDecodeLeastCost ? behind / kDecodeLeastCost * of_each : behind);
  }

  // Where unit `unit` of sequence `sequence` lies by cost, if the sequence's segments may be cut.
  FIREQ_HD int32_t CostAt(int32_t sequence, int32_t unit) const {
    return unit + extra[sequence] * tracks;
  }
};

}  // namespace fireq::sm90
