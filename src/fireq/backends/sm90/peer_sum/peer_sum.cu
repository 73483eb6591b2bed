#include <type_traits>

#include "fireq/backends/sm90/elementwise/row_quant.cuh"
#include "fireq/backends/sm90/peer_sum/launch.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

// Half as many where twice as many values are in a thread's registers.
constexpr int Threads(int ranks) { return ranks <= 4 ? 512 : 256; }

// A word of a box that nobody has written: two BF16 NaNs that no sum makes. What is sent has
// another NaN in their place, so a word that is not empty is a word that has come: no flag is
// needed, and no order among words.
constexpr uint32_t kEmpty = kEmptyBoxByte * 0x01010101u;
constexpr uint32_t kOtherNan = 0x7FFF7FFFu;

__device__ __forceinline__ uint32_t Sendable(uint32_t word) {
  return word == kEmpty ? kOtherNan : word;
}
// Without branches: all of a thread's loads are on their way before the first is looked at.
__device__ __forceinline__ bool HasEmpty(const uint4& v) {
  return ((v.x == kEmpty) | (v.y == kEmpty) | (v.z == kEmpty) | (v.w == kEmpty)) != 0;
}

// One CTA's part of a sum over at most kRanks ranks. Turns alternate, and whoever has read a slot
// empties it for the call after next: who writes into it then has read what this rank sent in the
// call between, after this one had ended. Loops over ranks are unrolled, so that what a thread
// reads of all of them is on its way at once.
template <int kRanks>
class PeerPart {
 public:
  __device__ explicit PeerPart(const PeerSumParams& p) : p_(p) {
    const uint32_t call = p.calls[blockIdx.x] + 1;
    turn_ = static_cast<int>(call % 2);
    __syncthreads();  // all have read `calls`
    if (threadIdx.x == 0) p.calls[blockIdx.x] = call;
  }

  // Vector `at` to every rank, to this one too.
  __device__ __forceinline__ void Send(int64_t at, const uint4& mine) const {
    const uint4 sent{Sendable(mine.x), Sendable(mine.y), Sendable(mine.z), Sendable(mine.w)};
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      if (r < p_.layout.ranks) StoreSystem128(Slot(p_.boxes[r], p_.rank) + at, sent);
  }
  // Every rank's vector `at`, as far as it has come; whether that is all of it.
  __device__ __forceinline__ bool Look(int64_t at, uint4 (&parts)[kRanks]) const {
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      if (r < p_.layout.ranks) parts[r] = LoadSystem128(Slot(p_.boxes[p_.rank], r) + at);
    bool all = true;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) all &= r >= p_.layout.ranks || !HasEmpty(parts[r]);
    return all;
  }
  // Whether a rank has failed, after so many looks in vain.
  __device__ __forceinline__ bool HasFailed(uint32_t looks) const {
    constexpr uint32_t kLooks = 4096;  // from one look at the host's memory to the next
    return looks % kLooks == kLooks - 1 && *static_cast<const volatile uint32_t*>(p_.stop) != 0;
  }
  __device__ __forceinline__ void Empty(int64_t at) const {
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      if (r < p_.layout.ranks) Slot(p_.boxes[p_.rank], r)[at] = {kEmpty, kEmpty, kEmpty, kEmpty};
  }
  __device__ __forceinline__ uint4 Add(const uint4 (&parts)[kRanks]) const {
    float sum[kVectorWidth] = {};
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= p_.layout.ranks) break;
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
    return reinterpret_cast<uint4*>(box + p_.layout.slot(turn_, rank));
  }
  const PeerSumParams& p_;
  int turn_;
};

template <int kRanks>
__global__ void __launch_bounds__(Threads(kRanks))
    PeerSumKernel(const __grid_constant__ PeerSumParams p) {
  constexpr int kThreads = Threads(kRanks);
  GridDependencyLaunch();
  GridDependencyWait();
  const PeerPart<kRanks> part(p);
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  constexpr int64_t kStep = int64_t{kPeerSumCtas} * kThreads;
  for (int64_t i = first; i < p.vectors; i += kStep) part.Send(i, p.values[i]);
  for (int64_t i = first; i < p.vectors; i += kStep) {
    uint4 parts[kRanks];
    for (uint32_t looks = 0; !part.Look(i, parts) && !part.HasFailed(looks); ++looks) {
    }
    part.Empty(i);
    p.values[i] = part.Add(parts);
  }
}

template <int kRanks, int kVectors>
__global__ void __launch_bounds__(Threads(kRanks))
    PeerSumNormKernel(const __grid_constant__ PeerSumNormParams p) {
  constexpr int kThreads = Threads(kRanks);
  __shared__ float slots[2 * kThreads / 32];
  GridDependencyLaunch();
  GridDependencyWait();
  const PeerPart<kRanks> part(p.sum);
  const int64_t row_vectors = p.k / kVectorWidth;
  for (int64_t index = blockIdx.x; index < p.rows; index += kPeerSumCtas) {
    const Row<kVectors, kThreads> row(p.k);
    uint4 mine[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (row.Has(v)) mine[v] = p.sum.values[index * row_vectors + row.Index(v)];
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (row.Has(v)) part.Send(index * row_vectors + row.Index(v), mine[v]);
  }
  for (int64_t index = blockIdx.x; index < p.rows; index += kPeerSumCtas) {
    if (index != blockIdx.x) __syncthreads();  // the row before has read `slots`
    Row<kVectors, kThreads> row(p.k);
    uint4 parts[kVectors][kRanks];
    for (uint32_t looks = 0;; ++looks) {
      bool all = true;
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        if (row.Has(v)) all &= part.Look(index * row_vectors + row.Index(v), parts[v]);
      if (all || part.HasFailed(looks)) break;
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint4 sum{0, 0, 0, 0};
      if (row.Has(v)) {
        const int64_t at = index * row_vectors + row.Index(v);
        part.Empty(at);
        sum = part.Add(parts[v]);
        p.sum.values[at] = sum;
      }
      UnpackBf16(sum, row.value[v]);
    }
    const Normalised normalised = Normalise(row, p.weight, p.eps, p.k, slots);
    WriteRow(row, normalised.inv_rms, normalised.absmax, GlobalRow(p.out, index, p.k));
  }
}

void Check(const PeerSumParams& params) {
  FIREQ_CHECK(params.layout.ranks >= 2 && params.layout.ranks <= kMaxPeerRanks &&
                  params.rank >= 0 && params.rank < params.layout.ranks && params.vectors >= 0 &&
                  params.vectors * 16 <= params.layout.slot_bytes,
              kInvalidArgument, "a sum of ", params.vectors * 8, " values over ",
              params.layout.ranks, " ranks in slots of ", params.layout.slot_bytes, " bytes");
}

template <class Params>
void Launch(void (*kernel)(Params), int threads, const Params& params, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = kPeerSumCtas;
  config.blockDim = static_cast<unsigned>(threads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  FIREQ_CUDA(cudaLaunchKernelEx(&config, kernel, params));
}

// body(constant of the kernel that takes so many ranks).
template <class Body>
void ForRanks(int ranks, const Body& body) {
  if (ranks == 2) return body(std::integral_constant<int, 2>{});
  if (ranks <= 4) return body(std::integral_constant<int, 4>{});
  body(std::integral_constant<int, kMaxPeerRanks>{});
}

}  // namespace

void LaunchPeerSum(const PeerSumParams& params, cudaStream_t stream) {
  Check(params);
  const auto launch = [&]<int kRanks>(std::integral_constant<int, kRanks>) {
    Launch(PeerSumKernel<kRanks>, Threads(kRanks), params, stream);
  };
  ForRanks(params.layout.ranks, launch);
}

void LaunchPeerSumNorm(const PeerSumNormParams& params, cudaStream_t stream) {
  Check(params.sum);
  FIREQ_CHECK(params.k > 0 && params.k % 64 == 0 && params.k <= kMaxPeerSumNormK &&
                  params.rows * params.k == params.sum.vectors * kVectorWidth,
              kInvalidArgument, "a sum of ", params.sum.vectors * kVectorWidth, " values in ",
              params.rows, " rows of ", params.k);
  const auto launch = [&]<int kRanks>(std::integral_constant<int, kRanks>) {
    constexpr int kThreads = Threads(kRanks);
    constexpr int kMost = kMaxPeerSumNormK / kVectorWidth / kThreads;  // vectors a thread
    const bool half = params.k <= kMaxPeerSumNormK / 2;
    Launch(half ? PeerSumNormKernel<kRanks, kMost / 2> : PeerSumNormKernel<kRanks, kMost>, kThreads,
           params, stream);
  };
  ForRanks(params.sum.layout.ranks, launch);
}

}  // namespace fireq::sm90
