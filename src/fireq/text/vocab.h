// Token text <-> id, in flat tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fireq::text {

inline constexpr int32_t kNoToken = -1;

// Ids are small and dense in real files; a larger one is refused before tables are sized by it.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 22) - 1;

// 64-bit hash of a short byte string; the same on every machine.
uint64_t HashBytes(std::string_view bytes);

class Vocab {
 public:
  void Reserve(size_t num_tokens);

  // Adds a token; false, changing nothing, if `text` or `id` is there already.
  // 0 <= id <= kMaxTokenId; all texts together stay below 4 GiB (a JSON file is smaller).
  bool Add(std::string_view text, int32_t id);

  // kNoToken if absent.
  int32_t Find(std::string_view text) const;

  bool Has(int32_t id) const {
    return id >= 0 && id < end_id() && spans_[static_cast<size_t>(id)].size >= 0;
  }
  // Empty for an id without a token.
  std::string_view TextOf(int32_t id) const;

  // One more than the largest id; 0 when empty.
  int32_t end_id() const { return static_cast<int32_t>(spans_.size()); }
  size_t num_tokens() const { return num_tokens_; }

 private:
  struct TextSpan {
    size_t offset = 0;
    int32_t size = -1;
  };
  struct Slot {
    uint32_t tag = 0;  // upper half of the hash
    int32_t id = kNoToken;
    uint32_t offset = 0;  // of the text, here as well: one cache miss less a lookup
    uint32_t size = 0;
  };
  void Grow(size_t num_slots);
  bool Holds(const Slot& slot, uint32_t tag, std::string_view text) const {
    return slot.tag == tag && slot.size == text.size() &&
           std::string_view(texts_).substr(slot.offset, slot.size) == text;
  }

  std::string texts_;
  std::vector<TextSpan> spans_;  // by id
  std::vector<Slot> slots_;      // open addressing, a power of two, at most half full
  size_t num_tokens_ = 0;
};

}  // namespace fireq::text
