// Pages and the prefix cache: nothing is lost, nothing is given twice, a hit is what it claims.
#include "fireq/engine/kv_pages.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <set>

#include "fireq/engine/prefix_cache.h"
#include "fireq/formats/kv_page.h"

namespace fireq {
namespace {

std::vector<int32_t> Ids(int64_t count, int32_t first) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = first + static_cast<int32_t>(i);
  return ids;
}

TEST(KvLease, TakesAllOrNothingAndGivesBackOnDestruction) {
  PagePool pool(5);
  {
    KvLease a(pool), b(pool);
    EXPECT_TRUE(a.GrowTo(3));
    EXPECT_FALSE(b.GrowTo(3));
    EXPECT_EQ(b.size(), 0);
    EXPECT_EQ(pool.num_free(), 2);
    EXPECT_TRUE(b.GrowTo(2));
    b.Share(a.pages()[1]);
    EXPECT_EQ(a.num_exclusive(), 2);
    EXPECT_EQ(b.num_exclusive(), 2);
    a.Release();
    EXPECT_EQ(pool.num_free(), 2);
    EXPECT_EQ(b.num_exclusive(), 3);
    KvLease moved = std::move(b);
    EXPECT_EQ(moved.size(), 3);
    moved = KvLease(pool);
    EXPECT_EQ(pool.num_free(), 5);
    EXPECT_TRUE(moved.GrowTo(5));
    EXPECT_EQ(std::set(moved.pages().begin(), moved.pages().end()).size(), 5u);
  }
  EXPECT_EQ(pool.num_free(), 5);
}

TEST(PrefixCache, FindsFullPagesOfEqualTokensOnly) {
  PagePool pool(16);
  PrefixCache cache(pool);
  const std::vector<int32_t> ids = Ids(3 * kTokensPerPage + 10, 0);
  KvLease first(pool);
  ASSERT_TRUE(first.GrowTo(4));
  PrefixCache::Cursor cursor;
  cache.Insert(cursor, ids, 2 * kTokensPerPage + 5, first);  // two pages are full
  EXPECT_EQ(cache.size(), 2);
  cache.Insert(cursor, ids, 3 * kTokensPerPage, first);
  EXPECT_EQ(cache.size(), 3);

  KvLease hit(pool);
  EXPECT_EQ(cache.Find(ids, 9, hit).num_pages, 3);
  EXPECT_TRUE(std::ranges::equal(hit.pages(), first.pages().first(3)));
  hit.Release();
  EXPECT_EQ(cache.Find(ids, 2, hit).num_pages, 2);
  hit.Release();

  std::vector<int32_t> other = ids;
  other[kTokensPerPage + 1] ^= 1;  // second page differs
  EXPECT_EQ(cache.Find(other, 9, hit).num_pages, 1);
  hit.Release();
  // The second page's tokens, but at the start of a sequence.
  EXPECT_EQ(cache.Find(Ids(kTokensPerPage, kTokensPerPage), 9, hit).num_pages, 0);

  first.Release();
  EXPECT_EQ(pool.num_idle(), 3);
  EXPECT_EQ(pool.num_available(), 16);
  EXPECT_EQ(cache.Find(ids, 9, hit).num_pages, 3);  // idle pages come back into use
  EXPECT_EQ(pool.num_idle(), 0);
}

TEST(PrefixCache, EqualHashesAreNoHits) {
  PagePool pool(8);
  PrefixCache cache(pool, [](uint64_t, std::span<const int32_t>) { return uint64_t{1}; });
  const std::vector<int32_t> a = Ids(2 * kTokensPerPage, 0), b = Ids(2 * kTokensPerPage, 7);
  KvLease lease_a(pool), lease_b(pool), hit(pool);
  ASSERT_TRUE(lease_a.GrowTo(2) && lease_b.GrowTo(2));
  PrefixCache::Cursor cursor_a, cursor_b;
  cache.Insert(cursor_a, a, 2 * kTokensPerPage, lease_a);
  EXPECT_EQ(cache.Find(b, 9, hit).num_pages, 0);
  cache.Insert(cursor_b, b, 2 * kTokensPerPage, lease_b);
  EXPECT_EQ(cache.Find(b, 9, hit).num_pages, 2);
  EXPECT_TRUE(std::ranges::equal(hit.pages(), lease_b.pages()));
}

TEST(PrefixCache, APageIsAHitBehindItsOwnParentAlone) {
  PagePool pool(8);
  PrefixCache cache(pool, [](uint64_t, std::span<const int32_t>) { return uint64_t{1}; });
  const std::vector<int32_t> a = Ids(2 * kTokensPerPage, 0);
  std::vector<int32_t> b = a;
  b[0] = 7;  // the second pages are alike
  KvLease lease_a(pool), lease_b(pool), hit(pool);
  ASSERT_TRUE(lease_a.GrowTo(2) && lease_b.GrowTo(1));
  PrefixCache::Cursor cursor_a, cursor_b;
  cache.Insert(cursor_a, a, 2 * kTokensPerPage, lease_a);
  cache.Insert(cursor_b, b, kTokensPerPage, lease_b);
  EXPECT_EQ(cache.Find(b, 9, hit).num_pages, 1);
  EXPECT_EQ(hit.pages()[0], lease_b.pages()[0]);
}

TEST(PrefixCache, SecondCopyOfTheSameTokensStaysOutWithItsDescendants) {
  PagePool pool(8);
  PrefixCache cache(pool);
  const std::vector<int32_t> ids = Ids(2 * kTokensPerPage, 0);
  KvLease a(pool), b(pool);
  ASSERT_TRUE(a.GrowTo(1) && b.GrowTo(2));
  PrefixCache::Cursor cursor_a, cursor_b;
  cache.Insert(cursor_a, ids, kTokensPerPage, a);
  cache.Insert(cursor_b, ids, 2 * kTokensPerPage, b);
  EXPECT_TRUE(cursor_b.ended);
  EXPECT_EQ(cache.size(), 1);
  b.Release();
  EXPECT_EQ(pool.num_free(), 7);
}

TEST(PrefixCache, EvictsTheLeastRecentlyUsedAndNeverAParentBeforeItsChild) {
  PagePool pool(8);
  PrefixCache cache(pool);
  const std::vector<int32_t> old_ids = Ids(2 * kTokensPerPage, 0);
  const std::vector<int32_t> new_ids = Ids(2 * kTokensPerPage, 1);
  KvLease hit(pool);
  for (const auto& ids : {old_ids, new_ids}) {
    KvLease lease(pool);
    ASSERT_TRUE(lease.GrowTo(2));
    PrefixCache::Cursor cursor;
    cache.Insert(cursor, ids, 2 * kTokensPerPage, lease);
  }
  cache.Evict(1);
  EXPECT_EQ(cache.Find(old_ids, 9, hit).num_pages, 1);  // the child went, its parent is in use now
  cache.Evict(1);                                       // so the next is the newer's child
  KvLease other(pool);
  EXPECT_EQ(cache.Find(new_ids, 9, other).num_pages, 1);
  cache.Evict(9);
  EXPECT_EQ(cache.size(), 2);  // both in use
  hit.Release();
  other.Release();
  cache.Evict(9);
  EXPECT_EQ(pool.num_free(), 8);
}

TEST(PrefixCache, AHitMakesPagesYoung) {
  PagePool pool(8);
  PrefixCache cache(pool);
  const std::vector<int32_t> first = Ids(2 * kTokensPerPage, 0);
  const std::vector<int32_t> second = Ids(2 * kTokensPerPage, 1);
  for (const auto& ids : {first, second}) {
    KvLease lease(pool);
    ASSERT_TRUE(lease.GrowTo(2));
    PrefixCache::Cursor cursor;
    cache.Insert(cursor, ids, 2 * kTokensPerPage, lease);
  }
  KvLease hit(pool);
  EXPECT_EQ(cache.Find(first, 9, hit).num_pages, 2);
  hit.Release();
  cache.Evict(2);
  EXPECT_EQ(cache.Find(first, 9, hit).num_pages, 2);
  KvLease other(pool);
  EXPECT_EQ(cache.Find(second, 9, other).num_pages, 0);
}

// Random sequences that share prefixes, grow, insert, end; evictions in between.
TEST(PrefixCache, RandomUseLosesNoPageAndHitsHoldTheTokensAskedFor) {
  std::mt19937 rng(11);
  PagePool pool(40);
  struct Live {
    std::vector<int32_t> ids;
    KvLease lease;
    PrefixCache::Cursor cursor;
  };
  {
    PrefixCache cache(pool);
    std::map<int32_t, std::vector<int32_t>> content;  // page -> all tokens up to its end
    std::vector<Live> live;
    int64_t hits = 0;
    for (int step = 0; step < 20000; ++step) {
      if (rng() % 2 == 0 && live.size() < 8) {
        std::vector<int32_t> ids;
        for (unsigned page = 0, pages = 1 + rng() % 6; page < pages; ++page)
          ids.insert(ids.end(), kTokensPerPage, static_cast<int32_t>(rng() % 2));
        Live s{std::move(ids), KvLease(pool), {}};
        s.cursor = cache.Find(s.ids, 9, s.lease);
        hits += s.cursor.num_pages;
        for (int64_t p = 0; p < s.lease.size(); ++p)
          ASSERT_TRUE(std::ranges::equal(content[s.lease.pages()[static_cast<size_t>(p)]],
                                         std::span(s.ids).first((p + 1) * kTokensPerPage)));
        const int64_t pages = static_cast<int64_t>(s.ids.size()) / kTokensPerPage;
        cache.Evict(pages - s.lease.size() - pool.num_free());
        const bool fits = s.lease.GrowTo(pages);
        if (!fits) continue;
        for (int64_t p = s.cursor.num_pages; p < pages; ++p)
          content[s.lease.pages()[static_cast<size_t>(p)]] = {
              s.ids.begin(), s.ids.begin() + (p + 1) * kTokensPerPage};
        cache.Insert(s.cursor, s.ids, static_cast<int64_t>(s.ids.size()), s.lease);
        live.push_back(std::move(s));
      } else if (!live.empty()) {
        live.erase(live.begin() + static_cast<int64_t>(rng() % live.size()));
      }
      std::set<int32_t> in_use;
      for (const Live& s : live) in_use.insert(s.lease.pages().begin(), s.lease.pages().end());
      ASSERT_EQ(static_cast<int64_t>(in_use.size()) + pool.num_available(), 40);
    }
    EXPECT_GT(hits, 1000);
    live.clear();
    EXPECT_EQ(pool.num_available(), 40);
  }
  EXPECT_EQ(pool.num_free(), 40);
}

}  // namespace
}  // namespace fireq
