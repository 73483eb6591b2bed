#include <type_traits>

#include "fireq/backends/sm90/peer_sum/launch.h"
#include "fireq/backends/sm90/peer_sum/owned_rows.cuh"
#include "fireq/backends/sm90/peer_sum/part.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/programmatic_launch.h"
#include "fireq/backends/sm90/sample_logits/logit_rank.cuh"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

template <int kRanks>
__global__ void __launch_bounds__(Threads(kRanks))
    PeerSumKernel(const __grid_constant__ PeerSumParams p) {
  constexpr int kThreads = Threads(kRanks);
  GridDependencyLaunch();
  GridDependencyWait();
  const PeerPart<kRanks> part(p.end);
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
  part.End();
}

template <int kRanks, int kVectors>
__global__ void __launch_bounds__(Threads(kRanks))
    PeerSumNormKernel(const __grid_constant__ PeerSumNormParams p) {
  constexpr int kThreads = Threads(kRanks);
  __shared__ float slots[2 * kThreads / 32];
  GridDependencyLaunch();
  const WeightsAtHand<Row<kVectors, kThreads>> weights(p.norm.weight, p.k);
  GridDependencyWait();
  const PeerPart<kRanks> part(p.sum.end);
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
    const Normalised normalised = Normalise(row, weights, p.norm.eps, p.k, slots);
    WriteRow(row, normalised.inv_rms, normalised.absmax, GlobalRow(p.norm.out, index, p.k));
  }
  part.End();
}

// CTAs of a warp. A vector a row: the rank of a candidate, less 1, so that id 0 is not emptiness.
template <int kRanks>
__global__ void __launch_bounds__(32)
    PeerLargestKernel(const __grid_constant__ PeerLargestParams p) {
  GridDependencyLaunch();
  GridDependencyWait();
  const PeerPart<kRanks> part(p.end);
  const auto first_row = static_cast<int>(blockIdx.x);
  for (int row = first_row; row < p.rows; row += kPeerSumCtas) {
    const uint64_t mine = FirstOfRanks(p.tops + int64_t{row} * p.num_tops, p.num_tops);
    const uint64_t sent = mine == 0 ? 0 : mine - static_cast<uint64_t>(p.first) - 1;
    if (threadIdx.x == 0)
      part.Send(row, {static_cast<uint32_t>(sent), static_cast<uint32_t>(sent >> 32), 0, 0});
  }
  for (int row = first_row; row < p.rows && threadIdx.x == 0; row += kPeerSumCtas) {
    uint4 sent[kRanks] = {};
    for (uint32_t looks = 0; !part.Look(row, sent) && !part.HasFailed(looks); ++looks) {
    }
    part.Empty(row);
    uint64_t best = 0;
#pragma unroll
    for (const uint4& one : sent) best = max(best, uint64_t{one.y} << 32 | one.x);
    p.largest[row] = best == 0 ? -1 : IdOfRank(best + 1);
  }
  part.End();
}

// Where the GEMM in front has sent the parts they are waited for, and not that it ends: that GEMM
// lets this kernel start when the kernels before it have ended (gemm_i4f8/stream_kernel.cuh).
template <OwnersSend kSent>
__global__ void __launch_bounds__(OwnedRows<kSent>::kThreads, 3)
    OwnedRowsKernel(const __grid_constant__ OwnedRowsParams p) {
  using Rows = OwnedRows<kSent>;
  __shared__ OwnedRowsShared shared;
  shared.stats.Init();
  ClusterArriveRelaxed();
  GridDependencyLaunch();
  const RowSlice slice(static_cast<int>(p.k) / kVectorWidth);
  const typename Rows::Weights weights(p.norm.weight + int64_t{slice.begin} * kVectorWidth,
                                       slice.columns());
  if (p.parts_at != PartsAt::kBoxes) GridDependencyWait();
  Rows rows(p, slice, weights, shared);
  ClusterWait();
  rows.Run();
}

void Check(const PeerEnd& end, int64_t vectors) {
  FIREQ_CHECK(end.layout.ranks >= 2 && end.layout.ranks <= kMaxPeerRanks && end.rank >= 0 &&
                  end.rank < end.layout.ranks && vectors >= 0 &&
                  vectors * kPeerVectorBytes <= end.layout.slot_bytes,
              kInvalidArgument, "messages of ", vectors, " vectors over ", end.layout.ranks,
              " ranks in slots of ", end.layout.slot_bytes, " bytes");
}

template <class Params>
void Launch(void (*kernel)(Params), int threads, const Params& params, cudaStream_t stream) {
  FIREQ_CUDA(
      LaunchProgrammatic(kernel, {.grid = kPeerSumCtas, .threads = threads}, params, stream));
}

// body(constant of the kernel that takes so many ranks).
template <class Body>
void ForRanks(int ranks, const Body& body) {
  if (ranks == 2) return body(std::integral_constant<int, 2>{});
  if (ranks <= 4) return body(std::integral_constant<int, 4>{});
  body(std::integral_constant<int, kMaxPeerRanks>{});
}

template <OwnersSend kSent>
void LaunchOwned(const OwnedRowsParams& params, cudaStream_t stream) {
  FIREQ_CHECK(RanksOwnRows(params.end.layout, params.rows, params.k), kInvalidArgument, "rows of ",
              params.rows, " x ", params.k, " have no owners");
  FIREQ_CUDA(LaunchProgrammatic(OwnedRowsKernel<kSent>,
                                {.grid = kPeerSumCtas,
                                 .threads = OwnedRows<kSent>::kThreads,
                                 .cluster = ClusterStats::kSlices},
                                params, stream));
}

}  // namespace

void LaunchPeerSum(const PeerSumParams& params, cudaStream_t stream) {
  Check(params.end, params.vectors);
  const auto launch = [&]<int kRanks>(std::integral_constant<int, kRanks>) {
    Launch(PeerSumKernel<kRanks>, Threads(kRanks), params, stream);
  };
  ForRanks(params.end.layout.ranks, launch);
}

void LaunchPeerSumNorm(const PeerSumNormParams& params, cudaStream_t stream) {
  Check(params.sum.end, params.sum.vectors);
  FIREQ_CHECK(params.k > 0 && params.k % 64 == 0 && params.k <= kMaxPeerSumNormK &&
                  params.rows * params.k == params.sum.vectors * kVectorWidth,
              kInvalidArgument, "a sum of ", params.sum.vectors * kVectorWidth, " values in ",
              params.rows, " rows of ", params.k);
  const bool half = params.k <= kMaxPeerSumNormK / 2;
  const auto launch = [&]<int kRanks>(std::integral_constant<int, kRanks>) {
    constexpr int kThreads = Threads(kRanks);
    constexpr int kMost = kMaxPeerSumNormK / kVectorWidth / kThreads;  // vectors a thread
    Launch(half ? PeerSumNormKernel<kRanks, kMost / 2> : PeerSumNormKernel<kRanks, kMost>, kThreads,
           params, stream);
  };
  ForRanks(params.sum.end.layout.ranks, launch);
}

void LaunchPeerLargest(const PeerLargestParams& params, cudaStream_t stream) {
  Check(params.end, params.rows);
  const auto launch = [&]<int kRanks>(std::integral_constant<int, kRanks>) {
    Launch(PeerLargestKernel<kRanks>, 32, params, stream);
  };
  ForRanks(params.end.layout.ranks, launch);
}

void LaunchOwnedRowsNorm(const OwnedRowsParams& params, cudaStream_t stream) {
  LaunchOwned<OwnersSend::kCodes>(params, stream);
}

void LaunchOwnedRows(const OwnedRowsParams& params, cudaStream_t stream) {
  LaunchOwned<OwnersSend::kSums>(params, stream);
}

}  // namespace fireq::sm90
