// What lists say: every page once, and every part where the warps look for it.
#include "fireq/backends/sm90/attn_decode_i4/lists.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "tests/backends/sm90/attn_decode_i4/lengths.h"

namespace fireq::sm90 {
namespace {

// Sequences of `pages` pages, dealt to `ctas` CTAs.
struct DealtLine {
  DealtLine(const std::vector<int32_t>& pages, int32_t tracks, int32_t ctas)
      : before(testing::BeforeEach(pages)) {
    deal = DecodeDeal::Of({before.data(), static_cast<int32_t>(pages.size()), tracks}, ctas,
                          ShortDivisor::Of(ctas));
  }
  DealtLine(const DealtLine&) = delete;
  DealtLine& operator=(const DealtLine&) = delete;

  std::vector<DecodeBefore> before;
  DecodeDeal deal{};
};

// The order in which a CTA has the units of its piece: from the segment that its end cuts, if there
// is one that does not fill the piece, then from the beginning.
std::vector<int32_t> Order(const DecodeWalk& walk, const std::vector<int32_t>& begins) {
  const auto begin_of = [&](int32_t unit) {
    return *std::prev(std::ranges::upper_bound(begins, unit));
  };
  std::vector<int32_t> order;
  const bool cut = std::ranges::find(begins, walk.end) == begins.end();
  const int32_t last = begin_of(walk.end - 1);
  const int32_t start = cut && last > walk.begin ? last : walk.begin;
  for (int32_t unit = start; unit < walk.end; ++unit) order.push_back(unit);
  for (int32_t unit = walk.begin; unit < start; ++unit) order.push_back(unit);
  return order;
}

void Check(const std::vector<int32_t>& pages, int32_t tracks, int32_t ctas) {
  const DealtLine dealt(pages, tracks, ctas);
  const DecodeDeal& deal = dealt.deal;
  const int32_t units = deal.line.units();
  std::vector<int32_t> begins;  // of every segment that has pages
  for (size_t s = 0; s < pages.size(); ++s)
    for (int32_t track = 0; track < tracks && pages[s] > 0; ++track)
      begins.push_back(dealt.before[s].pages * tracks + track * pages[s]);
  begins.push_back(units);
  struct Listed {
    DecodePart part;
    int32_t cta;
  };
  std::map<int32_t, std::vector<Listed>> parts;  // of the segment that begins there
  std::vector<int> taken(static_cast<size_t>(units), 0);
  std::vector<int> places(begins.size() - 1 + static_cast<size_t>(ctas), 0);
  int32_t behind = 0;
  for (int32_t cta = 0; cta < ctas; ++cta) {
    const DecodeWalk walk = deal.WalkOf(cta);
    ASSERT_EQ(walk.begin, behind);
    behind = walk.end;
    if (walk.pages() == 0) continue;
    const std::vector<int32_t> order = Order(walk, begins);
    const int32_t first_part = deal.FirstPart(walk, cta);
    int32_t number = -1, stop = 0;
    for (int32_t page = 0; page < walk.pages(); ++page) {
      const int32_t unit = order[static_cast<size_t>(page)];
      ASSERT_EQ(walk.PageOf(unit), page);
      ++taken[static_cast<size_t>(unit)];
      const DecodeLineSegment segment = deal.line.Find(unit);
      ASSERT_LE(segment.begin, unit);
      ASSERT_LT(unit, segment.end());
      ASSERT_EQ(*std::prev(std::ranges::upper_bound(begins, unit)), segment.begin);
      ASSERT_EQ(segment.pages, pages[static_cast<size_t>(segment.sequence)]);
      const int32_t first = walk.FirstOf(segment);
      if (unit == first) {
        // Parts are one behind the other, in the order of the pages.
        ASSERT_EQ(page, stop);
        ++number;
        const int32_t at = deal.PartAt(walk, first_part, cta, segment);
        ASSERT_EQ(at, first_part + number);
        ASSERT_GE(at, 0);
        ASSERT_LT(at, std::ssize(places));
        ++places[static_cast<size_t>(at)];
        const DecodePart part = deal.PartOf(walk, cta, segment);
        stop = part.stop;
        parts[segment.begin].push_back({part, cta});
      }
      const DecodePart& part = parts[segment.begin].back().part;
      ASSERT_EQ(part.first_key + kTokensPerPage * page, (unit - segment.begin) * kTokensPerPage);
      ASSERT_LT(page, part.stop);
    }
    ASSERT_EQ(stop, walk.pages());  // by which the last part is known
  }
  ASSERT_EQ(behind, units);
  ASSERT_TRUE(std::ranges::all_of(taken, [](int n) { return n == 1; }));
  ASSERT_TRUE(std::ranges::all_of(places, [](int n) { return n <= 1; }));
  std::map<int32_t, int> slots;
  for (const auto& [begin, listed] : parts) {
    if (listed.size() == 1) {
      ASSERT_EQ(listed[0].part.slot, -1);
      continue;
    }
    // Slots as DecodeWorkspace::Add walks them: the first anywhere, then the first of each CTA.
    for (size_t i = 0; i < listed.size(); ++i) {
      const DecodePart& part = listed[i].part;
      ASSERT_EQ(part.first_slot, listed[0].part.slot);
      ASSERT_EQ(part.count, std::ssize(listed));
      ASSERT_EQ(part.slot / 2, listed[i].cta);
      ASSERT_EQ(listed[i].cta, listed[0].cta + static_cast<int32_t>(i));
      ASSERT_TRUE(i == 0 || part.slot % 2 == 0);
      ASSERT_EQ(++slots[part.slot], 1);
    }
  }
}

TEST(DecodeLists, OfRandomLengths) {
  std::mt19937 rng(std::random_device{}());
  for (int i = 0; i < 400; ++i) {
    const auto pages = testing::RandomLengths(rng, i % 10 == 0 ? 600 : 40, 500);
    const int32_t ctas = testing::RandomCtas(rng, i);
    ASSERT_NO_FATAL_FAILURE(Check(pages, 1 + static_cast<int32_t>(rng() % 32), ctas)) << i;
  }
}

TEST(DecodeLists, OfUnusualLengths) {
  for (const std::vector<int32_t>& pages : testing::UnusualLengths())
    for (const int32_t tracks : {1, 8, 32}) ASSERT_NO_FATAL_FAILURE(Check(pages, tracks, 264));
}

TEST(DecodeLists, PageWordsTellWhatTheyWereMadeOf) {
  std::mt19937 rng(std::random_device{}());
  for (int i = 0; i < 1000; ++i) {
    const auto block = static_cast<int32_t>(rng() >> 5);
    const auto groups = static_cast<int32_t>(rng() % 5);
    const bool fresh = rng() % 2 != 0, begins = rng() % 2 != 0;
    const DecodePageWord word = DecodePageWord::Of(block, groups, fresh, begins);
    EXPECT_EQ(word.block(), block);
    EXPECT_EQ(word.groups(), groups);
    EXPECT_EQ(word.fresh(), fresh);
    EXPECT_EQ(word.begins(), begins);
  }
}

TEST(DecodeLists, LieBehindEachOther) {
  alignas(128) static uint8_t memory[128];
  const DecodeLists lists = DecodeLists::At(memory, 264, 2048);
  const auto* base = memory;
  EXPECT_EQ(reinterpret_cast<const uint8_t*>(lists.parts) - base, 264 * 128);
  EXPECT_EQ(reinterpret_cast<const uint8_t*>(lists.pages + 2048 * 21) - base,
            DecodeLists::Bytes(264, 2048, 21));
}

}  // namespace
}  // namespace fireq::sm90
