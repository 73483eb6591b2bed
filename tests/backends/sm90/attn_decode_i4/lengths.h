// Lengths of sequences in pages, for tests of the line that they are on.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "fireq/backends/sm90/attn_decode_i4/line.h"

namespace fireq::sm90::testing {

// What lies before each sequence, [S + 1].
inline std::vector<DecodeBefore> BeforeEach(const std::vector<int32_t>& pages) {
  std::vector<DecodeBefore> before{{}};
  for (const int32_t p : pages)
    before.push_back({before.back().pages + p,
                      static_cast<uint16_t>(before.back().extra + DecodeExtraCost(p)),
                      static_cast<uint16_t>(before.back().sequences + (p > 0))});
  return before;
}

// Of up to `most` sequences, of one to four kinds: short, empty among them, or below `longest`;
// the same kind next to each other.
inline std::vector<int32_t> RandomLengths(std::mt19937& rng, uint32_t most, uint32_t longest) {
  const auto below = [&](uint32_t n) { return static_cast<int32_t>(rng() % n); };
  std::vector<int32_t> pages(static_cast<size_t>(1 + below(most)));
  const uint32_t kinds = 1 + rng() % 4;
  int32_t run = 0, kind = 0;
  for (int32_t& p : pages) {
    if (run-- == 0) run = below(60), kind = below(kinds);
    p = kind == 0 ? below(3) : kind == 1 ? 8 + below(60) : kind == 2 ? below(20) : below(longest);
  }
  return pages;
}

// Nothing, one page, empty ones at either end, short ones behind long ones and a giant among them.
inline std::vector<std::vector<int32_t>> UnusualLengths() {
  std::vector<int32_t> long_and_short(200, 32);
  long_and_short.resize(256, 1);
  std::vector<int32_t> giant(301, 1);
  giant[150] = 16384;
  return {std::vector<int32_t>(256, 0),
          std::vector<int32_t>(256, 1),
          {1},
          {0, 0, 7, 0},
          {8, 0, 0, 7},
          long_and_short,
          giant,
          std::vector<int32_t>(256, 21),
          std::vector<int32_t>(64, 17)};
}

// As many CTAs as some GPU has room for, or any.
inline int32_t RandomCtas(std::mt19937& rng, int i) {
  return i % 3 == 0 ? 264 : i % 3 == 1 ? 228 : 1 + static_cast<int32_t>(rng() % 300);
}

}  // namespace fireq::sm90::testing
