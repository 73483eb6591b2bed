// Sums of BF16 values over the GPUs of one host, through each other's memory: for messages so short
// that a collective library's own latency is most of its time.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "fireq/backends/sm90/elementwise/launch.h"
#include "fireq/backends/sm90/peer_sum/plan.h"

namespace fireq::sm90 {

inline constexpr int kPeerSumCtas = 128;

struct PeerSumParams {
  uint4* values = nullptr;  // BF16, in this rank's memory, 16-byte aligned; the sum in the end
  int64_t vectors = 0;      // of 8 values; at most layout.slot_bytes / 16
  PeerBoxLayout layout;
  std::array<uint8_t*, kMaxPeerRanks> boxes{};  // of every rank, as this rank's GPU addresses them
  uint32_t* calls = nullptr;                    // [kPeerSumCtas], this rank's: sums so far
  const uint32_t* stop = nullptr;               // not 0: a rank has failed, wait for nobody
  int rank = 0;
};

// Every rank makes the same calls in the same order, each in a stream of its own. In FP32 from rank
// 0 on, rounded once: the same bits on every rank. Asynchronous, may be captured; programmatic
// dependent launch. Errors: kInvalidArgument, kCuda.
void LaunchPeerSum(const PeerSumParams& params, cudaStream_t stream);

// The same for rows, each of which one CTA then normalises and quantises as rmsnorm_quant would
// (elementwise/launch.h): the sum is in its registers. `sum.vectors` is rows * k / 8.
struct PeerSumNormParams {
  PeerSumParams sum;
  const float* weight = nullptr;  // [k], as of rmsnorm_quant
  float eps = 0.0f;
  int64_t rows = 0;
  int64_t k = 0;  // a multiple of 64, at most kMaxPeerSumNormK
  // Of long messages over more than two ranks: the ranks below this number have the sums
  // afterwards, the others their norm's codes alone, and of the sums the rows that they added up.
  int ranks_with_sums = 0;
  QuantizedRows out;
};
inline constexpr int64_t kMaxPeerSumNormK = 8192;
void LaunchPeerSumNorm(const PeerSumNormParams& params, cudaStream_t stream);

}  // namespace fireq::sm90
