// Tile sizes of the wide kernel and what they cost in shared memory; host and device.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"

namespace fireq::sm90 {

// Tokens that leave shared memory in one box.
inline constexpr int kWideOutTokens = 32;

// Groups of 128 along K that are multiplied in one go of the main loop, a stage of the rings each
// (a group past K is zeros): the unit in which tiles are dealt along K.
inline constexpr int kWideUnitGroups = 4;

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

  // A warpgroup's outputs, 16 bits each, on their way to memory: chunks of kWideOutTokens tokens,
  // all of a tile, so that a warpgroup never waits for them to have left.
  static constexpr int kChunks = kTokens / kWideOutTokens;
  static constexpr int kChunkBytes = kWideOutTokens * kTileRows * 2;
  static constexpr int kOutBytes = kChunks * kChunkBytes;
  static constexpr int kScaleBytes = kTokens * 4;  // token scales
  static constexpr int kBarrierBytes = 320;

  static constexpr int kStages =
      (kSharedBytesPerCta - kWarpgroups * kOutBytes - kScaleBytes - kBarrierBytes) /
      (kXBytes + kWBytes) / kWideUnitGroups * kWideUnitGroups;
  static constexpr int kOutOffset = kStages * kXBytes;  // a multiple of 1024: boxes are swizzled
  static constexpr int kWOffset = kOutOffset + kWarpgroups * kOutBytes;
  static constexpr int kScaleOffset = kWOffset + kStages * kWBytes;
  static constexpr int kBarrierOffset = kScaleOffset + kScaleBytes;
  static constexpr int kBarriers = 4 * kStages + 3 * kWarpgroups + 2;
  static constexpr int kSharedBytes = kBarrierOffset + kBarriers * 8;
  static_assert((kStages == kWideUnitGroups || kStages == 2 * kWideUnitGroups) &&
                kSharedBytes <= kSharedBytesPerCta);
  static_assert(kBarriers * 8 <= kBarrierBytes);
  static_assert(kXBytes % 1024 == 0 && kWBytes % 128 == 0 && kChunkBytes % 1024 == 0);

  // 64 K registers: consumers hold kTokens / 2 sums, two steps' operands and another's codes.
  static constexpr int kProducerRegisters = 56;
  static constexpr int kConsumerRegisters = ConsumerRegisters(kThreads, kProducerRegisters);
};

}  // namespace fireq::sm90
