// A variant's tile and shared memory, and which rows of the weight a CTA has.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fireq/backends/sm90/gemm_bf16/launch.h"

namespace fireq::sm90 {

inline constexpr int kUnitRows = 32;

// kBlocks blocks of 64 tokens a warpgroup; two warpgroups have the same rows of the weight and
// kTokenGroups = 2 times as many tokens, or the same tokens and twice as many rows. CTAs of a
// cluster copy a part of the tokens each, to all of them.
template <int kBlocks_, int kTokenGroups_, int kCluster_, int kXStages_, int kWStages_,
          int kUnits_ = 4>
struct GemmBf16Config {
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kTokenGroups = kTokenGroups_;
  static constexpr int kCluster = kCluster_;
  static constexpr int kWarpgroups = 2;
  static constexpr int kConsumerThreads = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumerThreads + 128;
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 232;
  static constexpr int kBlockTokens = 64;
  static constexpr int kTokens = kBlockTokens * kBlocks * kTokenGroups;
  static constexpr int kUnits = kUnits_;  // of kUnitRows rows of the weight, a warpgroup
  static constexpr int kTileUnits = kUnits * kWarpgroups / kTokenGroups;
  static constexpr int kStepBytes = 128;  // of a row in a step along K: the swizzle's span
  static constexpr int kStepColumns = kStepBytes / 2;
  static constexpr int kXBytes = kTokens * kStepBytes;
  static constexpr int kUnitBytes = kUnitRows * kStepBytes;
  static constexpr int kWBytes = kTileUnits * kUnitBytes;
  // Tokens come from the L2, the weight from memory, and so is asked for further ahead.
  static constexpr int kXStages = kXStages_;
  static constexpr int kWStages = kWStages_;
  static constexpr int kBarrierBytes = 16 * (kXStages + kWStages);
  static constexpr int kSharedBytes = kXStages * kXBytes + kWStages * kWBytes + kBarrierBytes;
  static_assert(kSharedBytes <= 227 * 1024);
};

// Rows of the weight in units of kUnitRows, dealt evenly: the first `more` CTAs have one more.
struct GemmBf16Params {
  float* y;
  uint64_t* tops;  // [M, num_tops]: LogitRank of the first candidate of each part of a row
  int m, n;
  int x_rows;  // that a CTA of the cluster copies: of the swizzle's 8 as few as hold m
  int steps;   // along K
  int units, units_each, more;
  int tiles;  // of the CTA with the most units; others have empty ones, since clusters go together
};
struct GemmBf16Maps {
  CUtensorMap x, w;
};

}  // namespace fireq::sm90
