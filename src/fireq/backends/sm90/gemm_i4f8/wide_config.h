// Tile sizes of the wide kernel and what they cost in shared memory; host and device.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"

namespace fireq::sm90 {

// kTokens x (64 kWarpgroups) outputs a CTA; clusters of two CTAs share their tokens. Tokens and
// weights have a ring each, of the same number of stages: a weight is read, and its stage free, a
// step before its tokens.
template <int kTokens_, int kWarpgroups_>
struct WideConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr int kWarpgroups = kWarpgroups_;  // consumers, 64 packed rows each
  static constexpr int kRows = kWarpgroups * kTileRows;
  static constexpr int kConsumerThreads = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumerThreads + 128;  // copies
  static constexpr int kClusterCtas = 2;

  static constexpr int kXBytes = kTokens * kGroup;  // a stage: a multiple of the swizzle's 1024
  static constexpr int kWBytes = kWarpgroups * kTileBytes;

  // Outputs on their way to memory: two chunks of 32 tokens x 64 rows of 16 bits a warpgroup; 16
  // bytes of padding a token put the rows of a transposing store into different banks.
  static constexpr int kOutTokens = 32;
  static constexpr int kOutPitch = kTileRows * 2 + 16;
  static constexpr int kOutBytes = kOutTokens * kOutPitch;  // of one chunk
  static constexpr int kScaleBytes = kTokens * 4;           // token scales, a warpgroup's own copy
  static constexpr int kWarpgroupBytes = 2 * kOutBytes + kScaleBytes;

  static constexpr int kStages =
      (kSharedBytesPerCta - kWarpgroups * kWarpgroupBytes - 256) / (kXBytes + kWBytes);
  static constexpr int kWOffset = kStages * kXBytes;
  static constexpr int kWarpgroupOffset = kWOffset + kStages * kWBytes;
  static constexpr int kBarrierOffset = kWarpgroupOffset + kWarpgroups * kWarpgroupBytes;
  static constexpr int kSharedBytes = kBarrierOffset + (4 * kStages + kWarpgroups) * 8;
  static_assert(kStages >= 4 && kStages <= 8 && kSharedBytes <= kSharedBytesPerCta);
  static_assert(kStages * kXBytes >= kRows * kTokens * 4, "parts of a tile come through the ring");
  static_assert(kXBytes % 1024 == 0 && kWBytes % 128 == 0 && kOutBytes % 16 == 0);

  // 64 K registers: consumers hold kTokens / 2 sums, two steps' operands and another's codes.
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = ConsumerRegisters(kThreads, kProducerRegisters);
};

}  // namespace fireq::sm90
