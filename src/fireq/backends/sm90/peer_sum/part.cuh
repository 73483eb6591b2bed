// What a CTA of a sum over ranks does with the ranks' boxes.
#pragma once

#include "fireq/backends/sm90/elementwise/row_quant.cuh"
#include "fireq/backends/sm90/peer_sum/launch.h"
#include "fireq/backends/sm90/peer_sum/words.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

// Half as many where twice as many values are in a thread's registers.
constexpr int Threads(int ranks) { return ranks <= 4 ? 512 : 256; }

// One CTA's part of a sum over at most kRanks ranks. Turns alternate, and whoever has read a slot
// empties it for the call after next: who writes into it then has read what this rank sent in the
// call between, after this one had ended. Loops over ranks are unrolled, so that what a thread
// reads of all of them is on its way at once.
template <int kRanks>
class PeerPart {
 public:
  __device__ explicit PeerPart(const PeerEnd& end)
      : end_(end), calls_(LoadSystem32(end.calls + blockIdx.x)), turn_(TurnBehind(calls_)) {}

  // What a CTA does last. The first one has waited for the kernel in front, so that no call ends
  // before that: a GEMM that has sent this call's parts looks at its count.
  __device__ void End() const {
    if (blockIdx.x == 0) GridDependencyWait();
    __syncthreads();  // all have read the count
    if (threadIdx.x == 0) end_.calls[blockIdx.x] = calls_ + 1;
  }

  // This rank's slot in the box of rank `to`, and rank `from`'s in this rank's own, from vector
  // `at` on.
  __device__ __forceinline__ uint4* To(int to, int64_t at) const {
    return Slot(end_.boxes[to], end_.rank) + at;
  }
  __device__ __forceinline__ uint4* From(int from, int64_t at) const {
    return Slot(end_.boxes[end_.rank], from) + at;
  }
  // The slot of rank `to` in its own box: of what is not a vector of the message.
  __device__ __forceinline__ uint4* Own(int to, int64_t at) const {
    return Slot(end_.boxes[to], to) + at;
  }

  // Vector `at` to every rank, to this one too.
  __device__ __forceinline__ void Send(int64_t at, const uint4& mine) const {
    const uint4 sent = Sendable(mine);
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      if (r < end_.layout.ranks) StoreSystem128(To(r, at), sent);
  }
  // Every rank's vector `at`, as far as it has come; whether that is all of it.
  __device__ __forceinline__ bool Look(int64_t at, uint4 (&parts)[kRanks]) const {
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      if (r < end_.layout.ranks) parts[r] = LoadSystem128(From(r, at));
    bool all = true;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) all &= r >= end_.layout.ranks || !HasEmpty(parts[r]);
    return all;
  }
  // Whether a rank has failed, after so many looks in vain.
  __device__ __forceinline__ bool HasFailed(uint32_t looks) const {
    constexpr uint32_t kLooks = 4096;  // from one look at the host's memory to the next
    return looks % kLooks == kLooks - 1 && *static_cast<const volatile uint32_t*>(end_.stop) != 0;
  }
  __device__ __forceinline__ void Empty(int64_t at) const {
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      if (r < end_.layout.ranks) *From(r, at) = Emptiness();
  }
  __device__ __forceinline__ uint4 Add(const uint4 (&parts)[kRanks]) const {
    float sum[kVectorWidth] = {};
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= end_.layout.ranks) break;
      float part[kVectorWidth];
      UnpackBf16(parts[r], part);
#pragma unroll
      for (int i = 0; i < kVectorWidth; ++i) sum[i] += part[i];
    }
    return {FloatsToBf16x2(sum[0], sum[1]), FloatsToBf16x2(sum[2], sum[3]),
            FloatsToBf16x2(sum[4], sum[5]), FloatsToBf16x2(sum[6], sum[7])};
  }

 private:
  __device__ __forceinline__ uint4* Slot(uint8_t* box, int rank) const {
    return reinterpret_cast<uint4*>(box + end_.layout.slot(turn_, rank));
  }
  const PeerEnd& end_;
  uint32_t calls_;
  int turn_;
};

}  // namespace fireq::sm90
