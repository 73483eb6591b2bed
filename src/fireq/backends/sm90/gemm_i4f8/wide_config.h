// Tile sizes of the wide kernel and what they cost in shared memory; host and device.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"

namespace fireq::sm90 {

// kTokens x (64 kWarpgroups) outputs a CTA; clusters of two CTAs share their tokens.
template <int kTokens_, int kWarpgroups_>
struct WideConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr int kWarpgroups = kWarpgroups_;  // consumers, 64 packed rows each
  static constexpr int kRows = kWarpgroups * kTileRows;
  static constexpr int kConsumerThreads = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumerThreads + 128;  // copies and product tables
  static constexpr int kClusterCtas = 2;

  static constexpr int kXBytes = kTokens * kGroup;
  static constexpr int kWeightBytes = kWarpgroups * kTileBytes;
  static constexpr int kTableBytes = kRows * 16;
  static constexpr int kStageBytes = AlignUp(kXBytes + kWeightBytes + kTableBytes, 1024);

  // Outputs on their way to memory: 32 tokens x 64 rows of 16 bits a warpgroup; 16 bytes of padding
  // a token put the rows of a transposing store into different banks.
  static constexpr int kOutTokens = 32;
  static constexpr int kOutPitch = kTileRows * 2 + 16;
  static constexpr int kOutBytes = kWarpgroups * kOutTokens * kOutPitch;

  static constexpr int kStages = (kSharedBytesPerCta - kOutBytes - 512) / kStageBytes;
  static constexpr int kOutOffset = kStages * kStageBytes;
  static constexpr int kBarrierOffset = kOutOffset + kOutBytes;
  static constexpr int kSharedBytes = kBarrierOffset + 3 * kStages * 8;
  static_assert(kStages >= 3 && kSharedBytes <= kSharedBytesPerCta);

  // 64 K registers: consumers hold kTokens / 2 sums, two groups of operands and a table.
  static constexpr int kTableWarps = 3;
  static constexpr int kProducerRegisters = 56;
  static constexpr int kConsumerRegisters = ConsumerRegisters(kThreads, kProducerRegisters);
};

}  // namespace fireq::sm90
