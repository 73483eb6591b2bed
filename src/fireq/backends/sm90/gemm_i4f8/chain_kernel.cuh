// Linears of one token, one behind the other in one launch. Weights depend on nothing, so the ring
// goes on from one GEMM to the next: while a GEMM's last outputs are made, the grid meets and the
// next token is normalised and quantised, the next weights are already on their way. Between
// kernels that time is the memory's to lose.
//
// The same CTAs, clusters of two, take part in every GEMM, as the stream kernel has them. They must
// all run at one time: the launch has no more than fit, one a multiprocessor.
#pragma once

#include <array>
#include <tuple>

#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/stream_kernel.cuh"

namespace fireq::sm90 {

inline constexpr int kLongChainGroups = kGemmVariants[kChainVariant].resident_groups;

inline constexpr int kChainWindow = 2;  // copies on their way

struct GemmChainParams {
  std::array<GemmI4F8Params, kMaxGemmChain> gemm;
  int count;
  uint32_t* meetings;
};
struct GemmChainMaps {
  std::array<CUtensorMap, kMaxGemmChain> weights;
};

// What a CTA does of one of the GEMMs.
struct ChainShare {
  int first_tile;  // of the cluster
  ClusterRun run;

  __device__ __forceinline__ ChainShare(const GemmI4F8Params& p, int rank)
      : first_tile(ClusterId() * p.tiles_per_cluster),
        run(ClusterSchedule<int>{max(0, min(p.tiles_per_cluster, p.tiles - first_tile)),
                                 p.units.value, kChainCluster, true},
            rank) {}
  // Whether the front of a tile is this CTA's, and the other's part of it will be sent.
  __device__ __forceinline__ bool Receives(int rank) const {
    return rank == 0 && run.end % run.units != 0;
  }
};

// Every CTA's writes before, by all consumer threads, are every CTA's to read behind. The count's
// highest bit turns once all have come: the first CTA adds what the others leave to 2^31, so that
// nobody sets it back.
template <class Config>
__device__ __forceinline__ void MeetGrid(uint32_t* meetings) {
  NamedBarrierSync(1, Config::kConsumerThreads);
  if (threadIdx.x == 0) {
    const uint32_t mine = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
    const uint32_t before = AtomicAddAcqRel(meetings, mine);
    while (((LoadAcquire(meetings) ^ before) & 0x80000000u) == 0) {
    }
  }
  NamedBarrierSync(1, Config::kConsumerThreads);
}

// What a block of a model has between its attention and the next one's, each with what becomes of
// its input: nothing of it is looked up while it runs.
template <class Epilogue_, int kGroups_, bool kNorm_>
struct ChainLink {
  using Epilogue = Epilogue_;
  static constexpr int kGroups = kGroups_;  // of K at most
  static constexpr bool kNorm = kNorm_;
};
using ChainLinks = std::tuple<ChainLink<ResidualEpilogue, kShortChainGroups, false>,
                              ChainLink<SiluMulEpilogue, kShortChainGroups, true>,
                              ChainLink<ResidualEpilogue, kLongChainGroups, false>,
                              ChainLink<PlainEpilogue, kShortChainGroups, true>>;

template <class Config>
struct ChainConsumer {
  const GemmChainParams& chain;
  StreamShared<Config> shared;
  int rank;
  RingPlace<Config::kStages> at{};
  uint32_t handover_parity = 0;

  template <int i>
  __device__ __forceinline__ void Run() {
    using Link = std::tuple_element_t<i, ChainLinks>;
    const GemmI4F8Params& p = chain.gemm[i];
    if constexpr (Link::kNorm) {
      using Row = typename ResidentShare<Config, Link::kGroups>::TokenRow;
      const WeightsAtHand<Row> norm(p.norm, p.groups * kGroup);
      Wait<i>();
      MakeResidentTokens<Config, Link::kGroups>(p, norm, shared.resident());
    } else {
      Wait<i>();
      MakeResidentTokens<Config, Link::kGroups>(p, NoNorm{}, shared.resident());
    }
    const ChainShare share(p, rank);
    const bool receives = share.Receives(rank);
    if (receives && threadIdx.x == 0)
      MbarrierArriveExpectTx(shared.handed_over(), Config::kPartialBytes);
    StreamConsumer<Config> consumer = MakeConsumer(p, shared);
    consumer.at = at;
    consumer.handover_parity = handover_parity;
    StreamSegments<Config, typename Link::Epilogue>(p, shared, consumer, share.run, 0, rank,
                                                    share.first_tile);
    at = consumer.at;
    if (receives) handover_parity ^= 1;
  }

 private:
  template <int i>
  __device__ __forceinline__ void Wait() const {
    if constexpr (i == 0) {
      GridDependencyWait();
    } else {
      MeetGrid<Config>(chain.meetings);
    }
  }
};

// One warp: the scales of the CTA's rows into the L2, where outputs find them without waiting
// behind weights.
template <class Config>
__device__ __forceinline__ void PrefetchRowScales(const GemmChainParams& chain, int rank) {
  constexpr int kTileFloats = Config::kRowBlocks * kTileRows;
  constexpr int kLine = 32;  // floats
#pragma unroll 1
  for (int i = 0; i < chain.count; ++i) {
    const ChainShare share(chain.gemm[i], rank);
    const float* scales =
        chain.gemm[i].row_scales + (share.first_tile + share.run.first) * kTileFloats;
    for (int at = static_cast<int>(threadIdx.x % 32) * kLine; at < share.run.count * kTileFloats;
         at += 32 * kLine)
      PrefetchL2(scales + at);
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Chain(const __grid_constant__ GemmChainParams chain,
                  const __grid_constant__ GemmChainMaps maps) {
  static_assert(Config::kResident && Config::kPairs && Config::kMovesRegisters);
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const StreamShared<Config> shared{dynamic_shared + Config::kResidentBytes};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int kWeightsWarp = Config::kConsumerThreads / 32;
  const int rank = static_cast<int>(ClusterRank());
  const ChainShare first(chain.gemm[0], rank);
  using Weights = StreamWeights<Config, kChainWindow>;
  Weights weights{chain.gemm[0], shared, first.run, first.first_tile};
  if (warp == kWeightsWarp) {
    if (lane == 0) weights.CopyFirst(maps.weights[0]);
  } else if (lane == 0) {
    for (int s = warp; s < Config::kStages; s += kWeightsWarp)
      if (warp < kWeightsWarp) MbarrierInit(shared.empty(s), Config::kConsumerThreads / 32);
    if (warp == 0) MbarrierInit(shared.handed_over(), 1);
    FenceMbarrierInit();
  }
  __syncthreads();
  ClusterArriveRelaxed();  // this CTA's barrier is there -> the other may send
  GridDependencyLaunch();
  if (warp >= kWeightsWarp) {
    RegistersDecrease<Config::kProducerRegisters>();
    if (warp == kWeightsWarp && lane == 0) {
      weights.CopyRest(maps.weights[0]);
      GridDependencyWait();  // what is in front has the memory for itself
      RingPlace<Config::kStages> at = weights.at, landed = weights.landed;
      int on_way = weights.on_way;
#pragma unroll 1
      for (int i = 1; i < chain.count; ++i) {
        const ChainShare next(chain.gemm[i], rank);
        Weights rest{chain.gemm[i], shared, next.run, next.first_tile, at, landed, on_way};
        rest.CopyRest(maps.weights[i]);
        at = rest.at;
        landed = rest.landed;
        on_way = rest.on_way;
      }
    }
    if (warp == kWeightsWarp + 1) PrefetchRowScales<Config>(chain, rank);
    __syncwarp();
    ClusterWait();
  } else {
    ClusterWait();
    RegistersIncrease<Config::kConsumerRegisters>();
    ChainConsumer<Config> consumer{chain, shared, rank};
    consumer.template Run<0>();
    if (chain.count > 1) consumer.template Run<1>();
    if (chain.count > 2) consumer.template Run<2>();
    if (chain.count > 3) consumer.template Run<3>();
  }
  __syncwarp();
  ClusterArriveRelaxed();  // a CTA's shared memory stays until what it sent is there
  ClusterWait();
}

}  // namespace fireq::sm90
