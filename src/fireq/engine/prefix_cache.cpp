#include "fireq/engine/prefix_cache.h"

#include <algorithm>

#include "fireq/formats/kv_page.h"

namespace fireq {
namespace {

std::span<const int32_t> PageIds(std::span<const int32_t> ids, int64_t page) {
  return ids.subspan(static_cast<size_t>(page * kTokensPerPage), kTokensPerPage);
}

}  // namespace

uint64_t PrefixCache::Hash(uint64_t parent_hash, std::span<const int32_t> ids) {
  uint64_t hash = parent_hash + 0x9E3779B97F4A7C15u;
  for (const int32_t id : ids) {
    hash = (hash ^ static_cast<uint32_t>(id)) * 0xBF58476D1CE4E5B9u;
    hash ^= hash >> 29;
  }
  return hash;
}

const PrefixCache::Node* PrefixCache::Child(const Node* parent, std::span<const int32_t> ids,
                                            uint64_t hash) const {
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it)
    if (it->second->parent == parent && std::ranges::equal(it->second->ids, ids)) return it->second;
  return nullptr;
}

void PrefixCache::Touch(const Node* node) {
  for (; node != nullptr; node = node->parent) nodes_.splice(nodes_.begin(), nodes_, node->self);
}

PrefixCache::Cursor PrefixCache::Find(std::span<const int32_t> ids, int64_t max_pages,
                                      KvLease& lease) {
  Cursor cursor;
  const int64_t full_pages = static_cast<int64_t>(ids.size()) / kTokensPerPage;
  while (cursor.num_pages < std::min(max_pages, full_pages)) {
    const auto page_ids = PageIds(ids, cursor.num_pages);
    const uint64_t parent_hash = cursor.node != nullptr ? cursor.node->hash : 0;
    const Node* child = Child(cursor.node, page_ids, hash_(parent_hash, page_ids));
    if (child == nullptr) break;
    lease.Share(child->page);
    cursor.node = child;
    ++cursor.num_pages;
  }
  Touch(cursor.node);
  return cursor;
}

void PrefixCache::Insert(Cursor& cursor, std::span<const int32_t> ids, int64_t num_tokens,
                         const KvLease& lease) {
  while (!cursor.ended && (cursor.num_pages + 1) * kTokensPerPage <= num_tokens) {
    const auto page_ids = PageIds(ids, cursor.num_pages);
    const uint64_t hash = hash_(cursor.node != nullptr ? cursor.node->hash : 0, page_ids);
    if (Child(cursor.node, page_ids, hash) != nullptr) {
      cursor.ended = true;
      return;
    }
    const int32_t page = lease.pages()[static_cast<size_t>(cursor.num_pages)];
    pool_.Keep(page);
    nodes_.push_front({cursor.node, hash, {page_ids.begin(), page_ids.end()}, page, {}});
    nodes_.front().self = nodes_.begin();
    by_hash_.emplace(hash, &nodes_.front());
    cursor.node = &nodes_.front();
    ++cursor.num_pages;
    Touch(cursor.node);
  }
}

void PrefixCache::Evict(int64_t count) {
  for (auto it = nodes_.end(); count > 0 && it != nodes_.begin();) {
    --it;
    if (pool_.uses(it->page) > 0) continue;
    pool_.LetGo(it->page);
    const auto [begin, end] = by_hash_.equal_range(it->hash);
    by_hash_.erase(std::find_if(begin, end, [&](const auto& e) { return e.second == &*it; }));
    it = nodes_.erase(it);
    --count;
  }
}

}  // namespace fireq
