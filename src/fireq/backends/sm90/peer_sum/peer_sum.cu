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

// Until the flag is `call` or a later one.
__device__ void WaitFor(const uint32_t* flag, uint32_t call, const uint32_t* stop) {
  constexpr int kSpins = 4096;  // between two looks at the host's memory
  while (true) {
    for (int spin = 0; spin < kSpins; ++spin)
      if (static_cast<int32_t>(LoadAcquireSystem(flag) - call) >= 0) return;
    if (*static_cast<const volatile uint32_t*>(stop) != 0) return;
  }
}

// One CTA's part of a sum over at most kRanks ranks. It waits for the same CTA of the other ranks
// alone. Turns alternate: who writes into a slot again has seen a flag of the call between, whose
// kernel began when its owner had read the slot. Loops over ranks are unrolled, so that what a
// thread reads of all of them is on its way at once.
template <int kRanks>
class PeerPart {
 public:
  __device__ explicit PeerPart(const PeerSumParams& p)
      : p_(p), call_(p.calls[blockIdx.x] + 1), turn_(static_cast<int>(call_ % 2)) {}

  // Vector `at` to the others.
  __device__ __forceinline__ void Send(int64_t at, const uint4& mine) const {
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      if (r < p_.layout.ranks && r != p_.rank)
        reinterpret_cast<uint4*>(p_.boxes[r] + p_.layout.slot(turn_, p_.rank))[at] = mine;
  }
  // By all threads, after what they sent; a CTA that has no part of the values only counts.
  __device__ __forceinline__ void Exchange(bool has_part) const {
    __syncthreads();  // the flags cover what every thread has written; all have read `calls`
    if (threadIdx.x == 0) p_.calls[blockIdx.x] = call_;
    if (!has_part) return;
    const int peer = static_cast<int>(threadIdx.x);
    if (peer < p_.layout.ranks && peer != p_.rank) {
      const int64_t flags = p_.layout.flags(static_cast<int>(blockIdx.x));
      StoreReleaseSystem(reinterpret_cast<uint32_t*>(p_.boxes[peer] + flags) + p_.rank, call_);
      WaitFor(reinterpret_cast<const uint32_t*>(p_.boxes[p_.rank] + flags) + peer, call_, p_.stop);
    }
    __syncthreads();  // the others' values are there
  }
  // Every rank's vector `at`.
  __device__ __forceinline__ void Read(int64_t at, uint4 (&parts)[kRanks]) const {
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      const auto* slot =
          reinterpret_cast<const uint4*>(p_.boxes[p_.rank] + p_.layout.slot(turn_, r));
      if (r < p_.layout.ranks) parts[r] = r == p_.rank ? p_.values[at] : slot[at];
    }
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
  const PeerSumParams& p_;
  uint32_t call_;
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
  part.Exchange(true);
  for (int64_t i = first; i < p.vectors; i += kStep) {
    uint4 parts[kRanks];
    part.Read(i, parts);
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
  part.Exchange(blockIdx.x < p.rows);
  for (int64_t index = blockIdx.x; index < p.rows; index += kPeerSumCtas) {
    if (index != blockIdx.x) __syncthreads();  // the row before has read `slots`
    Row<kVectors, kThreads> row(p.k);
    uint4 parts[kVectors][kRanks];
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (row.Has(v)) part.Read(index * row_vectors + row.Index(v), parts[v]);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint4 sum{0, 0, 0, 0};
      if (row.Has(v)) {
        sum = part.Add(parts[v]);
        p.sum.values[index * row_vectors + row.Index(v)] = sum;
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
