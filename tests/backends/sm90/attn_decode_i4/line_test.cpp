// Where the line of pages is cut for CTAs that have many segments.
#include "fireq/backends/sm90/attn_decode_i4/line.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "tests/backends/sm90/attn_decode_i4/lengths.h"

namespace fireq::sm90 {
namespace {

constexpr int kWarps = 4;

struct Piece {
  int32_t begin = 0;
  int32_t end = 0;
};

// Sequences of `pages` pages, cut as the kernel does for `ctas` CTAs.
struct CutLine {
  CutLine(const std::vector<int32_t>& pages, int32_t tracks, int32_t ctas)
      : of_each(pages), before(testing::BeforeEach(pages)) {
    line = {before.data(), static_cast<int32_t>(pages.size()), tracks};
    const int32_t rounds = (line.cost() + kWarps - 1) / kWarps;
    cuts = DecodeCuts::Of(rounds, ctas, ShortDivisor::Of(ctas), kWarps);
    const auto border = [&](int32_t cta) {
      return line.UnitAt(std::min(cuts.Begin(cta), line.cost()));
    };
    for (int32_t cta = 0; cta < ctas; ++cta) pieces.push_back({border(cta), border(cta + 1)});
  }
  CutLine(const CutLine&) = delete;
  CutLine& operator=(const CutLine&) = delete;

  int32_t units() const { return line.units(); }

  // of(segment), in order.
  template <class F>
  void ForEachSegment(const F& of) const {
    for (int32_t s = 0; s < line.num_sequences; ++s) {
      const int32_t pages = of_each[static_cast<size_t>(s)];
      for (int32_t track = 0; track < line.tracks && pages > 0; ++track)
        of(DecodeLineSegment{s, track, line.UnitsBefore(s) + track * pages, pages});
    }
  }

  // Of what each CTA has.
  struct Load {
    int32_t segments = 0;
    int32_t pages = 0;
    int32_t cost = 0;
  };
  std::vector<Load> Loads() const {
    std::vector<Load> loads(pieces.size());
    size_t cta = 0;
    ForEachSegment([&](const DecodeLineSegment& segment) {
      const auto [begin, pages] = std::pair(segment.begin, segment.pages);
      while (pieces[cta].end <= begin) ++cta;
      for (size_t c = cta; c < pieces.size() && pieces[c].begin < begin + pages; ++c) {
        const int32_t part =
            std::min(pieces[c].end, begin + pages) - std::max(pieces[c].begin, begin);
        if (part <= 0) continue;
        ++loads[c].segments;
        loads[c].pages += part;
        loads[c].cost += pages < kDecodeLeastCost ? kDecodeLeastCost : part;
      }
    });
    return loads;
  }

  std::vector<int32_t> of_each;  // sequence
  std::vector<DecodeBefore> before;
  DecodeLine line{};
  DecodeCuts cuts{};
  std::vector<Piece> pieces;
};

// What pieces of equal pages are.
std::vector<Piece> EqualPages(int32_t units, int32_t ctas) {
  const int32_t rounds = (units + kWarps - 1) / kWarps;
  const int32_t least = rounds / ctas, longer = rounds % ctas;
  const auto border = [&](int32_t cta) {
    return std::min((cta * least + std::min(cta, longer)) * kWarps, units);
  };
  std::vector<Piece> pieces;
  for (int32_t cta = 0; cta < ctas; ++cta) pieces.push_back({border(cta), border(cta + 1)});
  return pieces;
}

// Everything that the kernel relies on.
void Check(const std::vector<int32_t>& pages, int32_t tracks, int32_t ctas) {
  const CutLine cut(pages, tracks, ctas);
  ASSERT_EQ(cut.pieces.back().end, cut.units());
  for (size_t i = 0; i < cut.pieces.size(); ++i) {
    ASSERT_LE(cut.pieces[i].begin, cut.pieces[i].end);
    ASSERT_EQ(cut.pieces[i].begin, i == 0 ? 0 : cut.pieces[i - 1].end);
  }
  size_t cta = 0;  // of the segment's first unit
  int32_t number = 0;
  cut.ForEachSegment([&](const DecodeLineSegment& segment) {
    const int32_t begin = segment.begin, of_each = segment.pages;
    ASSERT_EQ(cut.line.NumberOf(segment), number++);
    while (cut.pieces[cta].end <= begin) ++cta;
    size_t last = cta;
    while (cut.pieces[last].end < begin + of_each) ++last;
    if (of_each < kDecodeLeastCost) {
      ASSERT_EQ(last, cta) << "a short segment is cut";
      return;
    }
    // All between have a part: they count.
    for (size_t c = cta; c <= last; ++c) ASSERT_LT(cut.pieces[c].begin, cut.pieces[c].end);
    const int32_t place = cut.line.PlaceOf(segment);
    const int32_t first = cut.cuts.Owner(place);
    ASSERT_EQ(first, static_cast<int32_t>(cta));
    ASSERT_EQ(cut.cuts.Owner(place + of_each - 1), static_cast<int32_t>(last));
    ASSERT_EQ(cut.cuts.Begin(first) >= place, cut.pieces[cta].begin == begin);
  });
  const int32_t most = cut.line.cost() / ctas + kWarps + kDecodeLeastCost;
  for (const CutLine::Load& load : cut.Loads()) ASSERT_LE(load.cost, most);
}

TEST(DecodeLine, PiecesOfRandomLengths) {
  std::mt19937 rng(std::random_device{}());
  for (int i = 0; i < 3000; ++i) {
    const auto pages = testing::RandomLengths(rng, i % 10 == 0 ? 600 : 40, 2000);
    const int32_t ctas = testing::RandomCtas(rng, i);
    ASSERT_NO_FATAL_FAILURE(Check(pages, 1 + static_cast<int32_t>(rng() % 32), ctas)) << i;
  }
}

TEST(DecodeLine, PiecesOfUnusualLengths) {
  for (const std::vector<int32_t>& pages : testing::UnusualLengths())
    for (const int32_t tracks : {1, 8, 32}) ASSERT_NO_FATAL_FAILURE(Check(pages, tracks, 264));
}

// Where no segment is shorter than what it costs at least, pieces have equal pages.
TEST(DecodeLine, LongSegmentsAreCutIntoEqualPages) {
  std::mt19937 rng(std::random_device{}());
  const auto expect_equal = [](const std::vector<int32_t>& pages, int32_t tracks, int32_t ctas) {
    const CutLine cut(pages, tracks, ctas);
    const std::vector<Piece> expected = EqualPages(cut.units(), ctas);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(cut.pieces[i].begin, expected[i].begin);
      ASSERT_EQ(cut.pieces[i].end, expected[i].end);
    }
  };
  for (const size_t sequences : {34, 64, 241, 256})
    for (int32_t pages = kDecodeLeastCost; pages <= 256; ++pages)
      for (const int32_t tracks : {8, 32})
        ASSERT_NO_FATAL_FAILURE(expect_equal(std::vector<int32_t>(sequences, pages), tracks, 264));
  for (int i = 0; i < 300; ++i) {
    std::vector<int32_t> pages(34 + rng() % 300);
    for (int32_t& p : pages)
      p = rng() % 5 == 0 ? 0 : kDecodeLeastCost + static_cast<int32_t>(rng() % 300);
    ASSERT_NO_FATAL_FAILURE(expect_equal(pages, 8, 264));
  }
}

// Equal short segments: no CTA has a segment more than where pages are equal.
TEST(DecodeLine, EqualShortSegments) {
  for (const size_t sequences : {34, 64, 256}) {
    for (int32_t pages = 1; pages < kDecodeLeastCost; ++pages) {
      const CutLine cut(std::vector<int32_t>(sequences, pages), 8, 264);
      int32_t most = 0, most_of_equal = 0;
      for (const CutLine::Load& load : cut.Loads()) most = std::max(most, load.pages);
      for (const Piece& piece : EqualPages(cut.units(), 264))
        most_of_equal = std::max(most_of_equal, piece.end - piece.begin);
      EXPECT_LE(most, most_of_equal + pages) << sequences << " of " << pages;
    }
  }
}

// 200 sequences of 2,048 tokens and 56 of 40, 8 KV heads: a CTA had 196 segments of one page.
TEST(DecodeLine, ShortSegmentsBesideLongOnes) {
  std::vector<int32_t> pages(200, 32);
  pages.resize(256, 1);
  const CutLine cut(pages, 8, 264);
  for (const CutLine::Load& load : cut.Loads()) {
    EXPECT_LE(load.segments, 27);
    EXPECT_LE(load.pages, 208);
  }
}

}  // namespace
}  // namespace fireq::sm90
