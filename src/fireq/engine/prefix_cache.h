// Full pages of K and V by the tokens they were computed from, so that a prompt which begins like
// an earlier one (or a preempted sequence) need not be run again. One thread.
//
// A tree: a node is one page of kTokensPerPage tokens behind its parent's. Found by hash, but a hit
// counts only if parent and tokens are equal.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "fireq/engine/kv_pages.h"

namespace fireq {

class PrefixCache {
 public:
  using HashFunction = uint64_t (*)(uint64_t parent_hash, std::span<const int32_t> ids);
  static uint64_t Hash(uint64_t parent_hash, std::span<const int32_t> ids);

  struct Node {
    const Node* parent = nullptr;  // null: the first page of a sequence
    uint64_t hash = 0;
    std::vector<int32_t> ids;
    int32_t page = 0;
    std::list<Node>::iterator self;
  };

  // How far a sequence's pages are in the tree. Valid while the sequence holds them.
  struct Cursor {
    const Node* node = nullptr;  // of the last page; null: none yet
    int64_t num_pages = 0;
    // Somebody else's page of the same tokens is in the tree: this sequence's next ones stay out,
    // so that whoever holds a node's page holds those of all its ancestors.
    bool ended = false;
  };

  explicit PrefixCache(PagePool& pool, HashFunction hash = Hash) : pool_(pool), hash_(hash) {}
  ~PrefixCache() { Evict(size()); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  int64_t size() const { return static_cast<int64_t>(nodes_.size()); }

  // Shares the pages of the longest known prefix of `ids`, at most `max_pages`, into `lease`, which
  // is empty.
  Cursor Find(std::span<const int32_t> ids, int64_t max_pages, KvLease& lease);

  // Enters the pages of `lease` behind `cursor` that are full with the first `num_tokens` of `ids`.
  void Insert(Cursor& cursor, std::span<const int32_t> ids, int64_t num_tokens,
              const KvLease& lease);

  // Lets go of up to `count` idle pages, least recently used first.
  void Evict(int64_t count);

 private:
  const Node* Child(const Node* parent, std::span<const int32_t> ids, uint64_t hash) const;
  // Makes `node` and its ancestors the most recently used, ancestors last: no node is ever older
  // than its children, so eviction from the old end never leaves an orphan.
  void Touch(const Node* node);

  PagePool& pool_;
  HashFunction hash_;
  std::list<Node> nodes_;  // most recently used first
  std::unordered_multimap<uint64_t, const Node*> by_hash_;
};

}  // namespace fireq
