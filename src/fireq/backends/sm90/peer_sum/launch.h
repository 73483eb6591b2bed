// Sums of BF16 values over the GPUs of one host, through each other's memory: for messages so short
// that a collective library's own latency is most of its time.
//
// Every rank makes the same calls in the same order, each in a stream of its own, beside no other
// kernel whose CTAs wait. In FP32 from rank 0 on, rounded once: the same bits on every rank.
// Asynchronous, may be captured; programmatic dependent launch. Errors: kInvalidArgument, kCuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/backends/sm90/elementwise/launch.h"
#include "fireq/backends/sm90/peer_sum/params.h"

namespace fireq::sm90 {

struct PeerSumParams {
  PeerEnd end;
  uint4* values = nullptr;  // BF16, in this rank's memory, 16-byte aligned; the sum in the end
  int64_t vectors = 0;      // of 8 values; at most layout.slot_bytes / 16
};
void LaunchPeerSum(const PeerSumParams& params, cudaStream_t stream);

// What becomes of rows that are summed: their norm, quantised as rmsnorm_quant would
// (elementwise/launch.h).
struct NormOfSums {
  const float* weight = nullptr;  // [k], as of rmsnorm_quant
  float eps = 0.0f;
  QuantizedRows out;
};

// The same for rows, each of which one CTA then normalises: the sum is in its registers.
// `sum.vectors` is rows * k / 8.
struct PeerSumNormParams {
  PeerSumParams sum;
  int64_t rows = 0;
  int64_t k = 0;  // a multiple of 64, at most kMaxPeerSumNormK
  NormOfSums norm;
};
void LaunchPeerSumNorm(const PeerSumNormParams& params, cudaStream_t stream);

// Each row's largest value over the ranks, of which each has some: the first of equal ones.
struct PeerLargestParams {
  PeerEnd end;
  const uint64_t* tops = nullptr;  // [rows, num_tops]: LogitRank of candidates, as gemm_bf16 has it
  int num_tops = 0;
  int rows = 0;                // at most layout.slot_bytes / 16
  int32_t first = 0;           // what id 0 of this rank's candidates is among all ranks'
  int32_t* largest = nullptr;  // [rows]: -1 where there is no candidate
};
void LaunchPeerLargest(const PeerLargestParams& params, cudaStream_t stream);

// Where ranks own rows (plan.h): x += the sum over the ranks of their parts, by each row's owner,
// who has it afterwards; the others get what the call is for.
enum class PartsAt : uint8_t {
  kBoxes,   // the owners' already: the kernel in front has sent them (gemm_i4f8), and may still be
            // at it, so that what it reads is neither x nor the norm's codes
  kMemory,  // this rank's
  kNowhere  // there are none to add
};
struct OwnedRowsParams {
  PeerEnd end;
  PartsAt parts_at = PartsAt::kBoxes;
  const uint4* parts = nullptr;  // BF16 [rows, k] if kMemory; may be `x` where x is not added
  bool adds_x = true;            // else the sum of the parts alone
  uint4* x = nullptr;            // BF16 [rows, k], of which an owner has its rows
  int64_t rows = 0;
  int64_t k = 0;
  NormOfSums norm;
};
// Everybody gets the norm's codes.
void LaunchOwnedRowsNorm(const OwnedRowsParams& params, cudaStream_t stream);
// Everybody gets x.
void LaunchOwnedRows(const OwnedRowsParams& params, cudaStream_t stream);

}  // namespace fireq::sm90
