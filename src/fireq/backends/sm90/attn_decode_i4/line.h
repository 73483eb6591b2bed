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

// Of the sequences before one.
struct DecodeBefore {
  int32_t pages;       // of one track (a KV head's row tile)
  uint16_t extra;      // cost besides them, likewise
  uint16_t sequences;  // that have pages
};

struct DecodeLineSegment {
  int32_t sequence;
  int32_t track;
  int32_t begin;  // first unit
  int32_t pages;

  FIREQ_HD int32_t end() const { return begin + pages; }
};

// Units (pages) of segments one behind the other, and what they cost: a segment's pages and its
// extra cost. Of a segment of kDecodeLeastCost pages and more every page costs one. A shorter one
// is never cut: what is cut behind its beginning begins with it.
struct DecodeLine {
  const DecodeBefore* before;  // [S + 1]
  int32_t num_sequences;
  int32_t tracks;

  FIREQ_HD int32_t UnitsBefore(int32_t sequence) const { return before[sequence].pages * tracks; }
  FIREQ_HD int32_t CostBefore(int32_t sequence) const {
    return (before[sequence].pages + before[sequence].extra) * tracks;
  }
  FIREQ_HD int32_t units() const { return UnitsBefore(num_sequences); }
  FIREQ_HD int32_t cost() const { return CostBefore(num_sequences); }

  // Of a unit on the line.
  FIREQ_HD DecodeLineSegment Find(int32_t unit) const {
    const int32_t s = Last([&](int32_t sequence) { return UnitsBefore(sequence) <= unit; });
    const int32_t pages = before[s + 1].pages - before[s].pages;
    const int32_t track = Quotient(unit - UnitsBefore(s), pages);
    return {s, track, UnitsBefore(s) + track * pages, pages};
  }

  // Of 0 .. cost(): the unit that a piece begins with which is cut there.
  FIREQ_HD int32_t UnitAt(int32_t cost) const {
    if (before[num_sequences].extra == 0) return cost;
    const int32_t s = Last([&](int32_t sequence) { return CostBefore(sequence) <= cost; });
    const int32_t behind = cost - CostBefore(s);
    const int32_t of_each = before[s + 1].pages - before[s].pages;
    return UnitsBefore(s) +
           (of_each < kDecodeLeastCost ? behind / kDecodeLeastCost * of_each : behind);
  }

  // Where a segment lies by cost that may be cut.
  FIREQ_HD int32_t PlaceOf(const DecodeLineSegment& segment) const {
    return segment.begin + before[segment.sequence].extra * tracks;
  }

  // How many segments lie before one.
  FIREQ_HD int32_t NumberOf(const DecodeLineSegment& segment) const {
    return before[segment.sequence].sequences * tracks + segment.track;
  }

 private:
  // The last sequence that is not behind a place, of which that is true up to it alone.
  template <class NotBehind>
  FIREQ_HD int32_t Last(const NotBehind& not_behind) const {
    int32_t low = 0;
    int32_t high = num_sequences;
    while (high - low > 1) {
      const int32_t middle = (low + high) / 2;
      if (not_behind(middle)) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

}  // namespace fireq::sm90
