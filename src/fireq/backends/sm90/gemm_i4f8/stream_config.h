// Tile sizes of the stream kernel and what they cost in shared memory; host and device.
#pragma once

#include <type_traits>

#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/base/math.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::sm90 {

inline constexpr int kSharedBytesPerCta = 232448;  // 227 KB: the opt-in limit of sm_90

// Registers a consumer thread may raise itself to (setmaxnreg: multiples of 8, at most 240) when
// one of the CTA's warpgroups lowers itself to `producer`: no more than the launch was given.
constexpr int ConsumerRegisters(int threads, int producer) {
  const int launched = 65536 / threads / 8 * 8 * threads;
  const int share = (launched - 128 * producer) / (threads - 128) / 8 * 8;
  return share > 240 ? 240 : share;
}

// kTokens x (64 kRowBlocks) outputs a tile; kGroups groups of 128 along K a pipeline step.
template <int kTokens_, int kRowBlocks_, int kGroups_, int kGroupsPerWarpgroup_,
          int kResidentGroups_ = 0>
struct StreamConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr int kRowBlocks = kRowBlocks_;
  static constexpr int kGroups = kGroups_;
  // With two groups a step a warpgroup pays the cost of a step (waits, addresses, the latency of a
  // chain of products) half as often, for a second set of accumulators.
  static constexpr int kGroupsPerWarpgroup = kGroupsPerWarpgroup_;
  static constexpr int kGroupSets = kGroups / kGroupsPerWarpgroup;  // warpgroups along K
  static constexpr int kConsumerThreads = 128 * kRowBlocks * kGroupSets;
  // Two producer warps, weights and tokens. Alone they would cost two of the multiprocessor's
  // quarters a consumer's registers: where sums are many they belong to a whole warpgroup that
  // gives its registers away.
  static constexpr bool kMovesRegisters = kTokens >= 64 || kRowBlocks >= 3 ||
                                          (kTokens >= 16 && kGroupsPerWarpgroup > 1) ||
                                          kResidentGroups_ > 40;
  static constexpr int kThreads = kConsumerThreads + (kMovesRegisters ? 128 : 64);
  static constexpr int kProducerRegisters = 56;
  // Of a CTA's schedule. With fewer tokens a Divisor's earlier start is no gain (NOTES.md).
  using Count = std::conditional_t<(kTokens >= 32), Divisor, int>;
  static constexpr int kConsumerRegisters = ConsumerRegisters(kThreads, kProducerRegisters);

  // Whether CTAs without a tile may help (EndsSchedule).
  static constexpr bool kHasHelpers = kTokens == 64 && kRowBlocks == 2;

  // A token that stays in shared memory, all of K, made there from BF16 (resident_tokens.cuh); else
  // tokens come through the ring as codes.
  static constexpr int kResidentGroups = kResidentGroups_;
  static constexpr bool kResident = kResidentGroups > 0;
  static_assert(kResidentGroups % kGroups == 0, "a last step reads whole groups");

  static constexpr int kXGroupBytes = kTokens * kGroup;
  static constexpr int kXBytes = kResident ? 0 : kGroups * kXGroupBytes;
  static constexpr int kWeightBytes = kRowBlocks * kGroups * kTileBytes;
  static constexpr int kSumBytes = kResident ? 0 : kGroups * kTokens * 4;
  // Codes and a group that products read past them (DescriptorOfVector), sums, scales, and a slot a
  // warp for what is combined over the CTA.
  static constexpr int kResidentCodeBytes = (kResidentGroups + 1) * kGroup;
  static constexpr int kResidentBytes =
      kResident ? AlignUp(kResidentCodeBytes + (kResidentGroups + 1) * kTokens * 4 + 256, 1024) : 0;
  // 1024: the 128-byte swizzle's atom.
  static constexpr int kStageBytes = AlignUp(kXBytes + kWeightBytes + kSumBytes, 1024);

  // 4 mod 32 words: the columns of a fragment land in different banks.
  static constexpr int kSumPitch = kRowBlocks * kTileRows + 4;
  static constexpr int kPartialBytes = kGroupSets * kTokens * kSumPitch * 4;
  // A cluster of two hands its one shared tile over by a copy between shared memories, without the
  // fences of a cluster barrier; that takes a second buffer, which large tiles have no room for.
  static constexpr bool kPairs = kTokens * kRowBlocks * kGroupSets <= 192;
  // Clusters of one tile exchange what they have of it, each CTA finishing a share of its tokens,
  // through the same buffer.
  static constexpr bool kExchanges = kPairs && kTokens >= 32;
  static constexpr int kHandoverBytes = kPairs ? kPartialBytes : 0;
  static constexpr int kStages =  // 512: barriers
      (kSharedBytesPerCta - kResidentBytes - kPartialBytes - kHandoverBytes - 512) / kStageBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kBarrierOffset =
      kResidentBytes + kRingBytes + kPartialBytes + kHandoverBytes;
  static constexpr int kSharedBytes = kBarrierOffset + (2 * kStages + 1) * 8;
  static_assert(kStages >= 3 && kSharedBytes <= kSharedBytesPerCta);
  static_assert(kPartialBytes <= kRingBytes, "a tail's sums reuse the ring");
};

}  // namespace fireq::sm90
