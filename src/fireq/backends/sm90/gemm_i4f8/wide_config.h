// Tile sizes of the wide kernel and what they cost in shared memory; host and device.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"

namespace fireq::sm90 {

// Tokens that leave shared memory in one box.
inline constexpr int kWideOutTokens = 32;

// Tiles of 64 rows and 256 tokens: no shared memory is left beside three stages, so that outputs
// take the place of tokens. A CTA has one such tile, as many CTAs as there are tiles.
constexpr bool WideOneTile(int tokens, int groups) { return tokens == 256 && groups == 2; }

// Steps along K that are multiplied in one go of the main loop (what is past K is zeros), and those
// in which parts of cut tiles are dealt: a part may end halfway through the loop.
constexpr int WideUnitSteps(int tokens, int groups) { return WideOneTile(tokens, groups) ? 2 : 4; }
inline constexpr int kWidePartSteps = 2;
// Parts of cut tiles of one row block go from cluster to cluster word by word (wide_parts.cuh),
// which has the least latency; of larger ones by the copy engine, which is faster.
constexpr bool WidePartsByWord(int groups) { return groups == 2; }
// CTAs of the largest GPU of this kind, that parts may go between, and of each all words.
inline constexpr int kWideMaxCtas = 144;
inline constexpr int kWideWordBytes = 128 * kTileRows * 2;
// Of a tile that is cut: all but a CTA's own are in the ring of tokens, or asked for, at a time.
inline constexpr int kWideMaxParts = 5;

// kTokens x (64 kRowBlocks) outputs a CTA. CTAs of a cluster share their tokens, and wait for one
// another's stages; where that costs more than it saves a CTA is a cluster by itself. Tokens and
// weights have a ring each, of the same number of stages: a weight is read, and its stage free, a
// step before its tokens. A step is kGroups groups of 128 along K, a warpgroup of a row block each:
// with two, these add their sums at a tile's end and finish half of its tokens each.
template <int kTokens_, int kRowBlocks_, int kGroups_, int kClusterCtas_,
          bool kSharesBlock_ = false, bool kDeals_ = false>
struct WideConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr int kRowBlocks = kRowBlocks_;
  static constexpr int kGroups = kGroups_;
  static constexpr bool kSharesBlock = kSharesBlock_;
  static constexpr bool kDeals = kDeals_;
  static constexpr int kWarpgroups = kRowBlocks * kGroups;  // consumers
  static_assert(kGroups == 1 || (kGroups == 2 && kRowBlocks == 1));
  static constexpr int kClusterCtas = kClusterCtas_;
  static_assert(kClusterCtas == 1 || kClusterCtas == 2);
  static_assert(!kSharesBlock || (kGroups == 1 && kRowBlocks == 2 && kClusterCtas == 2));
  static_assert(!kDeals || (kGroups == 1 && !kSharesBlock));
  static constexpr int kConsumerThreads = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumerThreads + 128;  // copies
  static constexpr bool kOneTile = WideOneTile(kTokens, kGroups);
  // Along K, for a few clusters each.
  static constexpr bool kCuts = !kOneTile && !kSharesBlock && !kDeals;
  static constexpr bool kPartsByWord = kCuts && WidePartsByWord(kGroups);
  static constexpr int kUnitSteps = WideUnitSteps(kTokens, kGroups);
  static_assert(kUnitSteps % kWidePartSteps == 0);

  // A stage: a multiple of the swizzle's 1024.
  static constexpr int kXGroupBytes = kTokens * kGroup;
  static constexpr int kXBytes = kGroups * kXGroupBytes;
  static constexpr int kWBytes = kWarpgroups * kTileBytes;

  // A warpgroup's outputs, 16 bits each, on their way to memory: chunks of kWideOutTokens tokens,
  // all that it finishes of a tile, so that it never waits for them to have left.
  static constexpr int kFinishedTokens = kTokens / kGroups;
  static constexpr int kChunks = kFinishedTokens / kWideOutTokens;
  static constexpr int kChunkBytes = kWideOutTokens * kTileRows * 2;
  static constexpr int kOutBytes = kChunks * kChunkBytes;
  // A warpgroup's sums in 16 bits, for another cluster: as much as its outputs, whose buffer they
  // leave by, and as the tokens of a step, whose stage they come by.
  static constexpr int kPartBytes = kFinishedTokens * kTileRows * 2;
  static_assert(kPartBytes == kOutBytes && (!kDeals || kPartBytes == kXBytes));
  static_assert(!kPartsByWord || kWarpgroups * kPartBytes == kWideWordBytes);
  // Of a cut tile a stage has all warpgroups' chunks that one of two parts or more finishes.
  static_assert(!kCuts || CeilDiv(kChunks, 2) * kWarpgroups * kChunkBytes <= kXBytes);
  // Sums that a warpgroup gives to the one it shares K with.
  static constexpr int kGivenBytes = kGroups == 1 ? 0 : kFinishedTokens * kTileRows * 4;
  static constexpr int kScaleBytes = kTokens * 4;  // token scales
  static constexpr int kBarrierBytes = 320;

  static constexpr int kSumBytes = kWarpgroups * (kOutBytes + kGivenBytes);
  static constexpr int kRoom =
      kSharedBytesPerCta - (kOneTile ? 0 : kSumBytes) - kScaleBytes - kBarrierBytes;
  static constexpr int kStages =
      kOneTile ? 3 : kRoom / (kXBytes + kWBytes) / kUnitSteps * kUnitSteps;
  // A multiple of 1024: boxes are swizzled.
  static constexpr int kOutOffset = kOneTile ? 0 : kStages * kXBytes;
  static constexpr int kGivenOffset = kOutOffset + kWarpgroups * kOutBytes;
  static constexpr int kWOffset = kStages * kXBytes + (kOneTile ? 0 : kSumBytes);
  static constexpr int kScaleOffset = kWOffset + kStages * kWBytes;
  static constexpr int kBarrierOffset = kScaleOffset + kScaleBytes;
  static constexpr int kBarriers = 4 * kStages + 3 * kWarpgroups + 2 + (kOneTile ? 1 : 0);
  static constexpr int kSharedBytes = kBarrierOffset + kBarriers * 8;
  static_assert((kOneTile || kStages == kUnitSteps || kStages == 2 * kUnitSteps) &&
                kSumBytes <= kWOffset && kSharedBytes <= kSharedBytesPerCta);
  static_assert(kBarriers * 8 <= kBarrierBytes);
  static_assert(kOneTile || kSharesBlock || kWideMaxParts - 1 <= kStages);
  static_assert(kXGroupBytes % 1024 == 0 && kWBytes % 128 == 0 && kChunkBytes % 1024 == 0 &&
                kFinishedTokens % kWideOutTokens == 0);

  // The first row block of CTA `rank` of a cluster, and of these the one that a warpgroup
  // multiplies.
  static constexpr FIREQ_HD int FirstBlock(int row_pair, int rank) {
    if (kSharesBlock) return row_pair * (2 * kRowBlocks - 1) + rank * (kRowBlocks - 1);
    return (row_pair * kClusterCtas + rank) * kRowBlocks;
  }
  static constexpr FIREQ_HD int RowBlock(int warpgroup, int rank) {
    if (kSharesBlock) return warpgroup ^ rank;
    return kGroups == 1 ? warpgroup : warpgroup % kRowBlocks;
  }
  // Its group of a step, the first token that it finishes and how many chunks of them.
  static constexpr FIREQ_HD int Group(int warpgroup) {
    return kGroups == 1 ? 0 : warpgroup / kRowBlocks;
  }
  static constexpr FIREQ_HD bool Halves(int warpgroup) { return kSharesBlock && warpgroup == 1; }
  static constexpr FIREQ_HD int FirstToken(int warpgroup, int rank) {
    if (Halves(warpgroup)) return rank * (kTokens / 2);
    return Group(warpgroup) * kFinishedTokens;
  }
  static constexpr FIREQ_HD int Chunks(int warpgroup) {
    return Halves(warpgroup) ? kChunks / 2 : kChunks;
  }

  // 64 K registers: consumers hold kTokens / 2 sums, two steps' operands and another's codes.
  static constexpr int kProducerRegisters = 56;
  static constexpr int kConsumerRegisters = ConsumerRegisters(kThreads, kProducerRegisters);
};

}  // namespace fireq::sm90
