// Philox4x32-10: random numbers by counter, so that CPU and GPU draw the same without any state.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"

namespace fireq {

struct PhiloxBlock {
  uint32_t word[4];
};

FIREQ_HD constexpr PhiloxBlock Philox(uint64_t key, PhiloxBlock counter) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  PhiloxBlock c = counter;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c.word[2];
    c = {{static_cast<uint32_t>(product1 >> 32) ^ c.word[1] ^ key0, static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ c.word[3] ^ key1,
          static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// Draw number `draw` of the stream `seed`: uniform in [0, 1), a multiple of 2^-53.
FIREQ_HD constexpr double PhiloxUniform(uint64_t seed, uint64_t draw) {
  const PhiloxBlock block =
      Philox(seed, {{static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32), 0, 0}});
  const uint64_t bits = uint64_t{block.word[0]} << 32 | block.word[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace fireq
