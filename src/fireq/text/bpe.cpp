#include "fireq/text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "fireq/base/error.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// Up to this many symbols an array scanned for its best pair beats a heap.
constexpr size_t kShortWord = 48;
constexpr size_t kMaxCachedWord = 128;  // bytes
constexpr size_t kMinCache = 16;
constexpr size_t kMaxCache = size_t{1} << 15;

}  // namespace

BpeScratch::BpeScratch(size_t text_bytes)
    : cache_(std::clamp(std::bit_ceil(text_bytes / 8 + 1), kMinCache, kMaxCache)) {}

void Bpe::Encode(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (symbols_ == SymbolKind::kBytes) {
    EncodeBytes(piece, scratch, ids);
  } else {
    EncodeCharacters(piece, scratch, ids);
  }
}

// Appends the ids of `word` from the cache, or merges the symbols that `spell` gives:
// spell(&count) returns a pointer to them; they are changed.
template <class Spell>
void Bpe::EncodeWord(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids,
                     const Spell& spell) const {
  const bool cacheable = word.size() <= kMaxCachedWord;
  const uint64_t hash = cacheable ? HashBytes(word) : 0;
  BpeScratch::CachedWord& slot = scratch.cache_[hash & (scratch.cache_.size() - 1)];
  if (cacheable && slot.size == word.size() && slot.hash == hash &&
      std::string_view(scratch.words_).substr(slot.text, slot.size) == word) {
    const size_t old_size = ids.size();
    ids.resize(old_size + slot.num_ids);
    std::copy_n(ids.begin() + static_cast<ptrdiff_t>(slot.first_id), slot.num_ids,
                ids.begin() + static_cast<ptrdiff_t>(old_size));
    return;
  }
  size_t count = 0;
  int32_t* symbols = spell(&count);
  count = count <= kShortWord ? MergeShort(symbols, count, scratch)
                              : MergeLong(symbols, count, scratch);
  if (cacheable) {
    slot = {hash, scratch.words_.size(), static_cast<uint32_t>(word.size()),
            static_cast<uint32_t>(count), ids.size()};
    scratch.words_.append(word);
  }
  ids.insert(ids.end(), symbols, symbols + count);
}

void Bpe::EncodeBytes(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const int32_t whole = whole_words_.Find(word);
    if (whole != kNoToken) return ids.push_back(whole);
  }
  EncodeWord(word, scratch, ids, [&](size_t* count) {
    scratch.ids_.clear();
    for (const char c : word) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      // A byte that the vocabulary lacks vanishes or becomes <unk>, as in Hugging Face tokenizers.
      if (id != kNoToken) scratch.ids_.push_back(id);
    }
    *count = scratch.ids_.size();
    return scratch.ids_.data();
  });
}

void Bpe::EncodeCharacters(std::string_view piece, BpeScratch& scratch,
                           std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const int32_t whole = vocab_.Find(piece);
    if (whole != kNoToken) return ids.push_back(whole);
  }
  SpellCharacters(piece, scratch);
  const std::vector<int32_t>& symbols = scratch.ids_;
  size_t begin = 0;
  while (begin < symbols.size()) {
    size_t end = begin + 1;
    while (end < symbols.size() &&
           (!may_cut_ || joinable_.Find(symbols[end - 1], symbols[end]).rank != Merge::kNone)) {
      ++end;
    }
    if (end == begin + 1) {
      ids.push_back(symbols[begin]);
    } else {
      const size_t from = scratch.begins_[begin];
      const std::string_view word = piece.substr(from, scratch.begins_[end] - from);
      EncodeWord(word, scratch, ids, [&](size_t* count) {
        *count = end - begin;
        return scratch.ids_.data() + begin;
      });
    }
    begin = end;
  }
}

// Initial symbols of `piece` into scratch.ids_ and their offsets into scratch.begins_.
void Bpe::SpellCharacters(std::string_view piece, BpeScratch& scratch) const {
  scratch.ids_.clear();
  scratch.begins_.clear();
  bool after_unknown = false;
  size_t length = 0;
  for (size_t at = 0; at < piece.size(); at += length) {
    length = static_cast<size_t>(CharLength(piece, at));
    const std::string_view character = piece.substr(at, length);
    const int32_t id = vocab_.Find(character);
    const auto add = [&](int32_t symbol) {
      scratch.ids_.push_back(symbol);
      scratch.begins_.push_back(at);
    };
    const auto has_byte = [&](char c) {
      return byte_ids_[static_cast<unsigned char>(c)] != kNoToken;
    };
    if (id != kNoToken) {
      add(id);
      after_unknown = false;
    } else if (byte_fallback_ && std::ranges::all_of(character, has_byte)) {
      for (const char c : character) add(byte_ids_[static_cast<unsigned char>(c)]);
      after_unknown = false;
    } else if (unknown_id_ != kNoToken) {
      if (!(after_unknown && fuse_unknown_)) add(unknown_id_);
      after_unknown = true;
    }
  }
  scratch.begins_.push_back(piece.size());
}

size_t Bpe::MergeShort(int32_t* symbols, size_t count, BpeScratch& scratch) const {
  if (count < 2) return count;
  std::vector<Merge>& pairs = scratch.pairs_;
  pairs.resize(count);
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = merges_.Find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == Merge::kNone) break;
    symbols[best] = pairs[best].id;
    std::copy(symbols + best + 2, symbols + count, symbols + best + 1);
    std::copy(pairs.begin() + static_cast<ptrdiff_t>(best) + 1,
              pairs.begin() + static_cast<ptrdiff_t>(count) - 1,
              pairs.begin() + static_cast<ptrdiff_t>(best));
    --count;
    if (best + 1 < count) pairs[best] = merges_.Find(symbols[best], symbols[best + 1]);
    if (best > 0) pairs[best - 1] = merges_.Find(symbols[best - 1], symbols[best]);
  }
  return count;
}

// The same with a heap of (rank, position) over a linked list; entries whose pair has changed since
// are recognised by their rank.
size_t Bpe::MergeLong(int32_t* symbols, size_t count, BpeScratch& scratch) const {
  std::vector<Merge>& pairs = scratch.pairs_;
  std::vector<int32_t>& next = scratch.next_;
  std::vector<int32_t>& previous = scratch.previous_;
  std::vector<uint64_t>& heap = scratch.heap_;
  const auto last = static_cast<int32_t>(count) - 1;
  pairs.assign(count, Merge{});
  next.resize(count);
  previous.resize(count);
  heap.clear();
  const auto look_up = [&](int32_t at) {
    pairs[at] = next[at] < 0 ? Merge{} : merges_.Find(symbols[at], symbols[next[at]]);
    if (pairs[at].rank != Merge::kNone) {
      heap.push_back(uint64_t{pairs[at].rank} << 32 | static_cast<uint32_t>(at));
      return true;
    }
    return false;
  };
  for (int32_t i = 0; i <= last; ++i) {
    next[i] = i < last ? i + 1 : -1;
    previous[i] = i - 1;
    look_up(i);
  }
  std::ranges::make_heap(heap, std::greater<>());
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<int32_t>(top & 0xFFFFFFFFu);
    if (pairs[at].rank != top >> 32) continue;
    const int32_t gone = next[at];
    symbols[at] = pairs[at].id;
    pairs[gone] = Merge{};
    next[at] = next[gone];
    if (next[at] >= 0) previous[next[at]] = at;
    if (look_up(at)) std::ranges::push_heap(heap, std::greater<>());
    if (previous[at] >= 0 && look_up(previous[at])) {
      std::ranges::push_heap(heap, std::greater<>());
    }
  }
  size_t kept = 0;
  for (int32_t i = 0; i >= 0; i = next[i]) symbols[kept++] = symbols[i];
  return kept;
}

}  // namespace fireq::text
