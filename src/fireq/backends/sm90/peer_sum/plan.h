// Where the ranks' parts of a sum lie in each other's memory.
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"

namespace fireq::sm90 {

inline constexpr int kMaxPeerRanks = 8;
inline constexpr int64_t kPeerVectorBytes = 16;  // of 8 BF16 values

// A rank's box, in its own memory and written by the others: two turns of a slot a rank. Filled
// with kEmptyBoxByte once.
inline constexpr uint8_t kEmptyBoxByte = 0xFF;
struct PeerBoxLayout {
  int64_t slot_bytes = 0;  // a multiple of kPeerVectorBytes: the longest message
  int ranks = 0;
  FIREQ_HD int64_t slot(int turn, int rank) const {
    return (int64_t{turn} * ranks + rank) * slot_bytes;
  }
  FIREQ_HD int64_t size_bytes() const { return slot(2, 0); }

  // Whether a sum of `bytes` goes through the boxes: what is longer is better off in a ring.
  bool Takes(int64_t bytes) const {
    return ranks > 1 && bytes % kPeerVectorBytes == 0 && bytes <= slot_bytes;
  }
};

// Of 1 to kMaxPeerRanks ranks, with slots as long as pays.
PeerBoxLayout MakePeerBoxLayout(int ranks);

inline constexpr int64_t kMaxPeerSumNormK = 8192;
inline constexpr int kMaxOwningRanks = 4;

// Whether each rank sums its own rows of a message, every so manieth from its number on, rather
// than every rank all of them: two short messages behind each other then take less time than one.
bool RanksOwnRows(const PeerBoxLayout& layout, int64_t rows, int64_t k);

}  // namespace fireq::sm90
