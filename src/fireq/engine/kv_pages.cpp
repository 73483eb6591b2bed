#include "fireq/engine/kv_pages.h"

#include <utility>

#include "fireq/base/error.h"

namespace fireq {

PagePool::PagePool(int64_t num_pages)
    : uses_(static_cast<size_t>(num_pages), 0), kept_(static_cast<size_t>(num_pages), false) {
  // The lowest numbers leave first.
  for (int64_t page = num_pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

int32_t PagePool::Take() {
  const int32_t page = free_.back();
  free_.pop_back();
  uses_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::Use(int32_t page) {
  const size_t i = static_cast<size_t>(page);
  FIREQ_DCHECK(uses_[i] > 0 || kept_[i]);
  if (uses_[i]++ == 0) --num_idle_;
}

void PagePool::Drop(int32_t page) {
  const size_t i = static_cast<size_t>(page);
  FIREQ_DCHECK(uses_[i] > 0);
  if (--uses_[i] > 0) return;
  if (kept_[i]) {
    ++num_idle_;
  } else {
    free_.push_back(page);
  }
}

void PagePool::Keep(int32_t page) {
  const size_t i = static_cast<size_t>(page);
  FIREQ_DCHECK(uses_[i] > 0 && !kept_[i]);
  kept_[i] = true;
}

void PagePool::LetGo(int32_t page) {
  const size_t i = static_cast<size_t>(page);
  FIREQ_DCHECK(kept_[i]);
  kept_[i] = false;
  if (uses_[i] > 0) return;
  --num_idle_;
  free_.push_back(page);
}

KvLease::KvLease(KvLease&& other) noexcept
    : pool_(other.pool_), pages_(std::exchange(other.pages_, {})) {}

KvLease& KvLease::operator=(KvLease&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = other.pool_;
    pages_ = std::exchange(other.pages_, {});
  }
  return *this;
}

int64_t KvLease::num_exclusive() const {
  int64_t count = 0;
  for (const int32_t page : pages_) count += pool_->uses(page) == 1;
  return count;
}

bool KvLease::GrowTo(int64_t size) {
  if (size - this->size() > pool_->num_free()) return false;
  while (this->size() < size) pages_.push_back(pool_->Take());
  return true;
}

void KvLease::Share(int32_t page) {
  pool_->Use(page);
  pages_.push_back(page);
}

void KvLease::Release() {
  for (const int32_t page : pages_) pool_->Drop(page);
  pages_.clear();
}

}  // namespace fireq
