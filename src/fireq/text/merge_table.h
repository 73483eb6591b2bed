// (left id, right id) -> (rank, merged id): the merges of a BPE model in a flat hash table.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace fireq::text {

struct Merge {
  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  uint32_t rank = kNone;  // lower merges first
  int32_t id = -1;        // the token that the pair becomes
};

class MergeTable {
 public:
  explicit MergeTable(size_t num_merges = 0)
      : slots_(std::bit_ceil(2 * num_merges + 2)), mask_(slots_.size() - 1) {}

  // A pair given twice keeps the later rank, as in Hugging Face tokenizers. At most the
  // `num_merges` of the constructor may be added.
  void Add(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[Locate(Key(left, right))];
    slot = {Key(left, right), merge};
  }

  // rank == Merge::kNone when the pair does not merge.
  Merge Find(int32_t left, int32_t right) const { return slots_[Locate(Key(left, right))].merge; }

 private:
  static constexpr uint64_t kEmpty = std::numeric_limits<uint64_t>::max();
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge;
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t Locate(uint64_t key) const {
    const uint64_t mixed = (key ^ key >> 29) * 0x9E3779B97F4A7C15u;
    size_t at = (mixed >> 24) & mask_;
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & mask_;
    return at;
  }

  std::vector<Slot> slots_;
  size_t mask_;
};

}  // namespace fireq::text
