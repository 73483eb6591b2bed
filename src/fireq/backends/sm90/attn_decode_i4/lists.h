// What each CTA does where it has many segments: its pages and the parts of segments that they are,
// found once a step and read by the attention of every layer. Integer arithmetic, the same on the
// host and the device.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/line.h"
#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/base/macros.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

// A page of one head, in a word: where it lies and what is copied of it.
struct DecodePageWord {
  uint32_t bits;

  // `block` (number Hk + head) is below 2^27: 580 GB of heads of 64. `groups` of 16 tokens are
  // copied, 0 .. 4. `fresh`: this step's own tokens belong into it. `begins`: a part does so here.
  FIREQ_HD static DecodePageWord Of(int32_t block, int32_t groups, bool fresh, bool begins) {
    return {static_cast<uint32_t>(block) << 5 | static_cast<uint32_t>(groups) << 2 |
            (fresh ? 2u : 0u) | (begins ? 1u : 0u)};
  }
  FIREQ_HD int32_t block() const { return static_cast<int32_t>(bits >> 5); }
  FIREQ_HD int32_t groups() const { return static_cast<int32_t>(bits >> 2 & 7); }
  FIREQ_HD bool fresh() const { return (bits & 2) != 0; }
  FIREQ_HD bool begins() const { return (bits & 1) != 0; }
};

// Of one segment, what a CTA computes. Pages are numbered in the order in which the CTA has them.
struct alignas(16) DecodePart {
  int32_t stop;        // the page behind its last
  int32_t first_key;   // page u has the keys from first_key + 64 u on
  int32_t context;     // of the sequence
  int32_t queries;     // likewise
  int32_t row;         // [T, H] of the first query's first head
  int32_t slot;        // of the workspace; -1: it is the whole segment
  int32_t first_slot;  // of the segment's first part, where there are
  int32_t count;       // several

  FIREQ_HD int32_t QueryOf(const AttnDecodeParams& p, int32_t of_rows) const {
    return queries == 1 ? 0 : of_rows / p.group;
  }
  // Of row `of_rows` of its query rows, the index [T, H]; -1 if it is not there.
  FIREQ_HD int64_t RowIndex(const AttnDecodeParams& p, int32_t of_rows) const {
    if (of_rows >= queries * p.group) return -1;
    const int32_t query = QueryOf(p, of_rows);
    return row + int64_t{query} * p.num_heads + of_rows - query * p.group;
  }
};

// One line of 128 bytes a CTA, which is all that its first copies wait for.
inline constexpr int kDecodeHeadPages = 28;
struct alignas(128) DecodeListHead {
  int32_t pages;       // of the CTA
  int32_t first_page;  // in DecodeLists::pages
  int32_t first_part;  // in DecodeLists::parts
  int32_t unused;
  DecodePageWord first_pages[kDecodeHeadPages];
};

// In device memory.
struct DecodeLists {
  DecodeListHead* heads = nullptr;  // [G], G CTAs
  DecodePart* parts = nullptr;      // [S Hk + G]
  DecodePageWord* pages = nullptr;  // [S Hk max_pages] at most

  // `segments` = S Hk.
  static int64_t Bytes(int64_t ctas, int64_t segments, int64_t max_pages) {
    return ctas * int64_t{sizeof(DecodeListHead)} +
           (segments + ctas) * int64_t{sizeof(DecodePart)} +
           segments * max_pages * int64_t{sizeof(DecodePageWord)};
  }
  static DecodeLists At(void* memory, int64_t ctas, int64_t segments) {
    DecodeLists lists;
    lists.heads = static_cast<DecodeListHead*>(memory);
    lists.parts = reinterpret_cast<DecodePart*>(lists.heads + ctas);
    lists.pages = reinterpret_cast<DecodePageWord*>(lists.parts + segments + ctas);
    return lists;
  }
};

// The units [begin, end) of a CTA. It begins with the segment that the piece's end cuts, from
// `start` on, and goes on with `begin`: what it shares with others is added while it works on, and
// the last segment is its own alone.
struct DecodeWalk {
  int32_t begin;
  int32_t end;
  int32_t start;

  FIREQ_HD int32_t pages() const { return end - begin; }
  // Which of the CTA's pages unit `unit` is.
  FIREQ_HD int32_t PageOf(int32_t unit) const {
    return unit - start + (unit < start ? pages() : 0);
  }
  FIREQ_HD int32_t FirstOf(const DecodeLineSegment& segment) const {
    return segment.begin < begin ? begin : segment.begin;
  }
  FIREQ_HD int32_t StopOf(const DecodeLineSegment& segment) const {
    return segment.end() < end ? segment.end() : end;
  }
};

// A line dealt to CTAs.
struct DecodeDeal {
  DecodeLine line;
  DecodeCuts cuts;  // by cost

  FIREQ_HD static DecodeDeal Of(const DecodeLine& line, int32_t ctas, const ShortDivisor& by_ctas) {
    constexpr int32_t kWarps = DecodeWarps(8);
    const int32_t rounds = (line.cost() + kWarps - 1) / kWarps;
    return {line, DecodeCuts::Of(rounds, ctas, by_ctas, kWarps)};
  }

  FIREQ_HD DecodeWalk WalkOf(int32_t cta) const {
    DecodeWalk walk{Border(cta), Border(cta + 1), 0};
    walk.start = walk.begin;
    if (walk.begin == walk.end) return walk;
    const DecodeLineSegment last = line.Find(walk.end - 1);
    if (last.begin > walk.begin && last.end() > walk.end) walk.start = last.begin;
    return walk;
  }

  // Where the parts of `walk`, which is not empty, are in a list of all CTAs' parts: a CTA's are
  // those of as many segments as its piece touches, one of which may be the last CTA's, too.
  FIREQ_HD int32_t FirstPart(const DecodeWalk& walk, int32_t cta) const {
    return line.NumberOf(line.Find(walk.begin)) + cta;
  }
  // The same of the part of `segment`.
  FIREQ_HD int32_t PartAt(const DecodeWalk& walk, int32_t first_part, int32_t cta,
                          const DecodeLineSegment& segment) const {
    if (walk.start == segment.begin) return first_part;
    return line.NumberOf(segment) + cta + (walk.start == walk.begin ? 0 : 1);
  }

  FIREQ_HD DecodePart PartOf(const DecodeWalk& walk, int32_t cta,
                             const DecodeLineSegment& segment) const {
    const int32_t first = walk.FirstOf(segment);
    const int32_t stop = walk.StopOf(segment);
    DecodePart part{};
    part.stop = walk.PageOf(first) + stop - first;
    part.first_key = (first - segment.begin - walk.PageOf(first)) * kTokensPerPage;
    part.slot = -1;
    if (first == segment.begin && stop == segment.end()) return part;
    // The CTAs that share it. Only the first of them can have begun before it: then it is in the
    // second of that one's slots.
    const int32_t place = line.PlaceOf(segment);
    const int32_t owner = cuts.Owner(place);
    part.slot = 2 * cta + (first == walk.begin ? 0 : 1);
    part.first_slot = 2 * owner + (cuts.Begin(owner) >= place ? 0 : 1);
    part.count = cuts.Owner(place + segment.pages - 1) - owner + 1;
    return part;
  }

 private:
  FIREQ_HD int32_t Border(int32_t cta) const {
    const int32_t place = cuts.Begin(cta);
    return line.UnitAt(place < line.cost() ? place : line.cost());
  }
};

}  // namespace fireq::sm90
