// Which CTA of a cluster works on which part of K of which tile: stream-K inside a cluster.
//
// A cluster owns a few output tiles; their units of K, laid end to end, are cut into one equal run
// a CTA. A run is at most one partial tile that began in an earlier CTA (head), whole tiles, and
// one partial tile that ends in a later CTA (tail). Pure; the same code on host and device.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fireq/base/divisor.h"
#include "fireq/base/macros.h"

namespace fireq::sm90 {

// A count that is divided by: a Divisor, or a number where that is no faster.
FIREQ_HD constexpr int ValueOf(int count) { return count; }
FIREQ_HD constexpr int ValueOf(const Divisor& count) { return count.value; }
template <class Count>
FIREQ_HD constexpr Count CountOf(const Divisor& count) {
  if constexpr (std::is_same_v<Count, Divisor>) {
    return count;
  } else {
    return count.value;
  }
}

struct Segment {
  int tile;   // within the cluster
  int begin;  // first unit of K
  int end;    // one past the last

  FIREQ_HD constexpr bool whole(int units) const { return begin == 0 && end == units; }
};

template <class Count>
struct ClusterSchedule {
  int tiles;          // of this cluster
  Count units;        // of K, a tile
  Count ranks;        // CTAs of the cluster; tiles * units >= ranks
  bool pair = false;  // two ranks of which one sends its part to the other

  FIREQ_HD constexpr int RunBegin(int rank) const {
    return static_cast<int>(static_cast<unsigned>(tiles * ValueOf(units)) * rank / ranks);
  }
  FIREQ_HD constexpr int RunUnits(int rank) const { return RunBegin(rank + 1) - RunBegin(rank); }

  // Ranks [first, last] that hold parts of `tile`, lowest units first.
  FIREQ_HD constexpr int FirstRank(int tile) const {
    int rank = 0;
    while (RunBegin(rank + 1) <= tile * ValueOf(units)) ++rank;
    return rank;
  }
  FIREQ_HD constexpr int LastRank(int tile) const {
    int rank = FirstRank(tile);
    while (RunBegin(rank + 1) < (tile + 1) * ValueOf(units)) ++rank;
    return rank;
  }
};

// What one rank does.
struct ClusterRun {
  int units;
  int begin, end;  // of the rank's run, in units
  int first;       // tile that `begin` lies in
  int count;       // segments
  bool pair;

  template <class Count>
  FIREQ_HD constexpr ClusterRun(const ClusterSchedule<Count>& schedule, int rank)
      : units(ValueOf(schedule.units)),
        begin(schedule.RunBegin(rank)),
        end(schedule.RunBegin(rank + 1)),
        first(begin / schedule.units),
        count(begin == end ? 0 : (end - 1) / schedule.units - first + 1),
        pair(schedule.pair) {}

  // Segment `i` in the order of execution. In a pair, the natural order: the one head is sent away
  // first, the one tail waits for it last. Else: whole tiles, then the head, then the tail, so that
  // partial sums need to be kept only at the end.
  FIREQ_HD constexpr Segment At(int i) const {
    if (pair) return Of(first + i);
    const bool head = begin != first * units, tail = end != (first + count) * units;
    if (!head) return Of(first + i);
    if (!tail || count == 1) return Of(first + (i + 1 < count ? i + 1 : 0));  // head last
    return Of(first + (i < count - 2 ? i + 1 : (i == count - 2 ? 0 : i)));
  }

  // What the run has of `tile`.
  FIREQ_HD constexpr Segment Of(int tile) const {
    const int from = begin - tile * units, to = end - tile * units;
    return {tile, from > 0 ? from : 0, to < units ? to : units};
  }

  // As EndsSchedule has it.
  FIREQ_HD constexpr ClusterRun(int part_units, int from, int to, int first_part, int parts)
      : units(part_units), begin(from), end(to), first(first_part), count(parts), pair(false) {}
};

// Where clusters of one tile each leave multiprocessors idle: other CTAs, the helpers, take the
// last units of what every owner, a CTA of those clusters, has of K, one owner's after the other's,
// and hand their sums over. Helpers come first in the grid: whoever waits for one started later.
struct EndsSchedule {
  int parts;      // owners
  int units;      // of K, a part
  int end_units;  // of which helpers have
  Divisor helpers;

  // Of a run: the units of a part, which of them it has, and of which parts.
  FIREQ_HD constexpr ClusterRun Run(int cta) const {
    if (cta >= helpers.value) return {units, 0, units - end_units, cta - helpers.value, 1};
    const int from = cta * parts / helpers, to = (cta + 1) * parts / helpers;
    return {units, units - end_units, units, from, to - from};
  }
  // Its i-th segment, of tiles of `ranks` parts, all of the grid's.
  static FIREQ_HD constexpr Segment At(const ClusterRun& run, int i, const Divisor& ranks) {
    const int part = run.first + i, tile = part / ranks;
    const int from = (part - tile * ranks.value) * run.units;
    return {tile, from + run.begin, from + run.end};
  }
};

// The order of the wide kernel's tiles: bands of token tiles, row blocks outermost inside a band,
// so that the tiles running at one time share their weights and tokens in L2.
inline constexpr int kTokenTilesPerBand = 8;

// Where rows are wanted early: the last band is of as few token tiles as may be, as the others are
// ready before it. Every band reads all weights, so that few bands are better.
constexpr int TokenTilesOfEarlyBand(int token_tiles) {
  constexpr int kLeast = 3;
  int best = 1, best_last = token_tiles;
  for (int tiles = kTokenTilesPerBand; tiles >= 1; --tiles) {
    const int last = (token_tiles - 1) % tiles + 1;
    if (last >= best_last || (tiles < kLeast && best_last < token_tiles)) continue;
    best = tiles;
    best_last = last;
  }
  return best;
}

struct WideTile {
  int row_pair;  // of a cluster's CTA tiles along the packed rows
  int token_tile;
};
struct WideTileOrder {
  int token_tiles = 1;
  Divisor band;         // its tiles
  Divisor band_tokens;  // and token tiles
  Divisor last_tokens;  // token tiles of the last band

  constexpr WideTileOrder() = default;
  constexpr WideTileOrder(int row_pairs, int tokens, int tokens_per_band = kTokenTilesPerBand)
      : token_tiles(tokens),
        band(row_pairs * tokens_per_band),
        band_tokens(tokens_per_band),
        last_tokens((tokens - 1) % tokens_per_band + 1) {}
  FIREQ_HD constexpr WideTile At(int index) const {
    const int bands = index / band, first = bands * band_tokens.value;
    const int within = index - bands * band.value;
    const Divisor width = token_tiles - first >= band_tokens.value ? band_tokens : last_tokens;
    const int row_pair = within / width;
    return {row_pair, first + within - row_pair * width.value};
  }
};

// Tiles of the wide kernel dealt to clusters: their units of K, laid end to end, in runs. A
// cluster's work of its run: first the end of a tile that other clusters have begun (or some of its
// middle), which it hands over; then whole tiles; then the beginning of a tile, which it finishes
// with what the clusters behind it have handed over by then.
struct WideDeal {
  static constexpr int kMaxClusters = 72;
  int clusters = 0;
  Divisor units;                     // a tile
  uint16_t begin[kMaxClusters + 1];  // of each cluster's run

  struct Share {
    int tile;        // of the first unit, among the tiles that are dealt
    int begin, end;  // what is handed over of it, in units: nothing if begin == end
    int first;       // whole tile
    int whole;       // tiles
    int units;       // of tile first + whole: the part to finish

    FIREQ_HD constexpr bool hands_over() const { return begin < end; }
    FIREQ_HD constexpr bool finishes() const { return units > 0; }
  };
  FIREQ_HD constexpr Share Of(int cluster) const {
    if (clusters == 0) return {};
    const int from = begin[cluster], to = begin[cluster + 1];
    const int tile = from / units, skip = from - tile * units.value;
    const int rest = skip == 0 ? 0 : units.value - skip;
    const int end = skip + (rest < to - from ? rest : to - from);
    const int left = to - from - (end - skip), whole = left / units;
    return {tile, skip, end, tile + (skip == 0 ? 0 : 1), whole, left - whole * units.value};
  }
  // Whether a cluster hands a part of `tile` over, of which one before it has the beginning.
  FIREQ_HD constexpr bool HasPart(int cluster, int tile) const {
    return cluster < clusters && begin[cluster] < (tile + 1) * units.value;
  }
};

// Sums of parts of tiles go from cluster to cluster as FP16, in a unit that no sum of k products of
// E4M3 numbers is too large for: 448 x 448 k / unit < 65504. With k = 4096 that is 2^14, and a sum
// keeps 11 bits down to 1 (of 2^-14 x the unit), where a product may be 2e5.
constexpr float WidePartUnit(int64_t k) {
  float unit = 1.0f;
  while (448.0f * 448.0f * static_cast<float>(k) >= 65504.0f * unit) unit *= 2.0f;
  return unit;
}

}  // namespace fireq::sm90
