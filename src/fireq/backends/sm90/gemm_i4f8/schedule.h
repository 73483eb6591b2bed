// Which CTA of a cluster works on which part of K of which tile: stream-K inside a cluster.
//
// A cluster owns a few output tiles; their units of K, laid end to end, are cut into one equal run
// a CTA. A run is at most one partial tile that began in an earlier CTA (head), whole tiles, and
// one partial tile that ends in a later CTA (tail). Pure; the same code on host and device.
#pragma once

#include "fireq/base/macros.h"

namespace fireq::sm90 {

struct Segment {
  int tile;   // within the cluster
  int begin;  // first unit of K
  int end;    // one past the last

  FIREQ_HD constexpr bool whole(int units) const { return begin == 0 && end == units; }
};

struct ClusterSchedule {
  int tiles;          // of this cluster
  int units;          // of K, a tile
  int ranks;          // CTAs of the cluster; tiles * units >= ranks
  bool pair = false;  // two ranks of which one sends its part to the other

  FIREQ_HD constexpr int RunBegin(int rank) const {
    return static_cast<int>(static_cast<unsigned>(tiles * units) * rank / ranks);
  }
  FIREQ_HD constexpr int RunUnits(int rank) const { return RunBegin(rank + 1) - RunBegin(rank); }

  FIREQ_HD constexpr int NumSegments(int rank) const {
    const int begin = RunBegin(rank), end = RunBegin(rank + 1);
    return begin == end ? 0 : (end - 1) / units - begin / units + 1;
  }

  // Segment `i` of a rank in the order of execution. In a pair, the natural order: the one head is
  // sent away first, the one tail waits for it last. Else: whole tiles, then the head, then the
  // tail, so that partial sums need to be kept only at the end.
  FIREQ_HD constexpr Segment At(int rank, int i) const {
    const int begin = RunBegin(rank), end = RunBegin(rank + 1);
    const int count = NumSegments(rank);
    const int first = begin / units;
    if (pair) return Between(begin, end, first + i);
    const bool head = begin % units != 0;
    const int place = head && (end % units == 0 || count == 1)
                          ? (i + 1) % count  // head last
                          : (!head ? i : (i < count - 2 ? i + 1 : (i == count - 2 ? 0 : i)));
    return Between(begin, end, first + place);
  }

  // What the run [begin, end) has of `tile`.
  FIREQ_HD constexpr Segment Between(int begin, int end, int tile) const {
    const int from = begin - tile * units, to = end - tile * units;
    return {tile, from > 0 ? from : 0, to < units ? to : units};
  }

  // Ranks [first, last] that hold parts of `tile`, lowest units first.
  FIREQ_HD constexpr int FirstRank(int tile) const {
    int rank = 0;
    while (RunBegin(rank + 1) <= tile * units) ++rank;
    return rank;
  }
  FIREQ_HD constexpr int LastRank(int tile) const {
    int rank = FirstRank(tile);
    while (RunBegin(rank + 1) < (tile + 1) * units) ++rank;
    return rank;
  }
};

// The order of the wide kernel's tiles: bands of token tiles, row blocks outermost inside a band,
// so that the tiles running at one time share their weights and tokens in L2.
inline constexpr int kTokenTilesPerBand = 8;

struct WideTile {
  int row_pair;  // of two CTA tiles along the packed rows
  int token_tile;
};
FIREQ_HD constexpr WideTile WideTileAt(int index, int row_pairs, int token_tiles) {
  const int band = index / (row_pairs * kTokenTilesPerBand);
  const int first = band * kTokenTilesPerBand;
  const int width =
      token_tiles - first < kTokenTilesPerBand ? token_tiles - first : kTokenTilesPerBand;
  const int within = index - first * row_pairs;
  return {within / width, first + within % width};
}

}  // namespace fireq::sm90
