// Which page of the KV cache belongs to whom. One thread.
//
// A page is free, in use (by one or more leases) or idle (kept by the prefix cache alone). Full
// pages of a common prefix are shared between leases; a page that is still written to has one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fireq {

class PagePool {
 public:
  explicit PagePool(int64_t num_pages);

  int64_t num_pages() const { return static_cast<int64_t>(uses_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_idle() const { return num_idle_; }
  // What can be had once the prefix cache gives way.
  int64_t num_available() const { return num_free() + num_idle_; }
  // Leases that hold `page`.
  int32_t uses(int32_t page) const { return uses_[static_cast<size_t>(page)]; }

  // The prefix cache keeps a page that is in use, and lets go of it later.
  void Keep(int32_t page);
  void LetGo(int32_t page);

 private:
  friend class KvLease;
  int32_t Take();
  void Use(int32_t page);
  void Drop(int32_t page);

  std::vector<int32_t> free_;
  std::vector<int32_t> uses_;
  std::vector<bool> kept_;
  int64_t num_idle_ = 0;
};

// The pages of one sequence in order; they go back when it is destroyed. The pool outlives it.
class KvLease {
 public:
  explicit KvLease(PagePool& pool) : pool_(&pool) {}
  ~KvLease() { Release(); }
  KvLease(KvLease&& other) noexcept;
  KvLease& operator=(KvLease&& other) noexcept;

  std::span<const int32_t> pages() const { return pages_; }
  int64_t size() const { return static_cast<int64_t>(pages_.size()); }
  // Pages that no other lease holds: what Release makes available.
  int64_t num_exclusive() const;

  // Appends free pages up to `size` in all; false, and nothing has changed, if there are too few.
  bool GrowTo(int64_t size);
  // Appends a page that is in use or idle.
  void Share(int32_t page);
  void Release();

 private:
  PagePool* pool_;
  std::vector<int32_t> pages_;
};

}  // namespace fireq
