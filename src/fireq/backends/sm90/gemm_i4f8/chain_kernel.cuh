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

struct GemmChainParams {
  std::array<GemmI4F8Params, kMaxGemmChain> gemm;
  int count;
  uint32_t* meetings;
};
struct GemmChainMaps {
  std::array<CUtensorMap, kMaxGemmChain> steps;   // of weights, a pipeline step's at once
  std::array<CUtensorMap, kMaxGemmChain> pieces;  // kChainPieces of a step
};
inline constexpr int kChainPieces = 2;

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

// Where the consumers of all CTAs meet: what they have written in front is theirs to read behind.
// The count's highest bit turns once all have come: the first CTA adds what the others leave to
// 2^31, so that nobody sets it back.
template <class Config>
struct GridMeeting {
  static constexpr uint32_t kAll = 0x80000000u;
  uint32_t* count;
  uint32_t before = 0;  // the first thread's

  // No launch in front has anyone to come.
  __device__ __forceinline__ void Open() {
    if (threadIdx.x == 0) before = LoadRelaxed(count);
  }
  __device__ __forceinline__ void Come() const {
    NamedBarrierSync(1, Config::kConsumerThreads);
    if (threadIdx.x == 0) AddRelease(count, blockIdx.x == 0 ? kAll - (gridDim.x - 1) : 1u);
  }
  __device__ __forceinline__ void Meet() {
    Come();
    if (threadIdx.x == 0) {
      while (((LoadAcquire(count) ^ before) & kAll) == 0) {
      }
      before ^= kAll;
    }
    NamedBarrierSync(1, Config::kConsumerThreads);
  }
};

// What a block of a model has between its attention and the next one's, each with what becomes of
// its input: nothing of it is looked up while it runs.
template <GemmEpilogue kKind_, class Epilogue_, int kGroups_, bool kNorm_>
struct ChainLink {
  static constexpr GemmEpilogue kKind = kKind_;
  using Epilogue = Epilogue_;
  static constexpr int kGroups = kGroups_;  // of K at most
  static constexpr bool kNorm = kNorm_;
};
using ChainLinks =
    std::tuple<ChainLink<GemmEpilogue::kResidual, ResidualEpilogue, kShortChainGroups, false>,
               ChainLink<GemmEpilogue::kSiluMul, SiluMulEpilogue, kShortChainGroups, true>,
               ChainLink<GemmEpilogue::kResidual, ResidualEpilogue, kLongChainGroups, false>,
               ChainLink<GemmEpilogue::kPlain, PlainEpilogue, kShortChainGroups, true>>;
static_assert(std::tuple_size_v<ChainLinks> == kMaxGemmChain);

// What the weights' thread has to know of the consumers.
struct ChainSignals {
  Mbarrier piece;            // has landed
  volatile int tokens_made;  // links that have theirs: a hint, which nothing is read behind
};

// The weights of one link. What is asked for waits in a queue behind all that is on its way to the
// multiprocessor. While consumers are between links (the grid meets, the next token is read) that
// is one piece of a step and no more; once they have the link's token, as much as keeps the memory
// busy.
template <class Config>
struct ChainWeights : StreamWeights<Config> {
  static constexpr int kPieceBytes = Config::kWeightBytes / kChainPieces;
  static constexpr int kPieceGroups = Config::kGroups / kChainPieces;
  static constexpr int kMostOnTheirWay = 2;
  uint32_t piece_parity = 0;

  __device__ __forceinline__ void CopyLink(const CUtensorMap& step, const CUtensorMap& piece,
                                           int link, ChainSignals& signals) {
    while (this->More()) {
      MbarrierWait(this->shared.empty(this->at.stage), this->at.parity);
      if (signals.tokens_made > link) {
        WaitForCopy(kMostOnTheirWay);
        this->Copy(step);
      } else {
        WaitForCopy(1);
        CopyPieces(piece, signals.piece);
      }
    }
  }

 private:
  // The copy that was asked for so many before the next one; those before the first count as done.
  __device__ void WaitForCopy(int before) const {
    const int stage = this->at.stage - before;
    const bool of_lap = stage >= 0;
    MbarrierWait(this->shared.full(of_lap ? stage : stage + Config::kStages),
                 this->at.parity ^ (of_lap ? 1 : 0));
  }
  // Each behind the one before; the last one completes the step.
  __device__ void CopyPieces(const CUtensorMap& map, Mbarrier& landed) {
    for (int i = 0; i < kChainPieces; ++i) {
      Mbarrier* const barrier = i + 1 < kChainPieces ? &landed : this->shared.full(this->at.stage);
      MbarrierArriveExpectTx(barrier, kPieceBytes);
      TmaLoad4D(this->shared.w(this->at.stage) + i * kPieceBytes, &map, 0, 0,
                this->unit * Config::kGroups + i * kPieceGroups, this->block, barrier, kEvictFirst);
      if (i + 1 == kChainPieces) break;
      MbarrierWait(&landed, piece_parity);
      piece_parity ^= 1;
    }
    ++this->unit;
    this->at.Next();
  }
};

template <class Config>
struct ChainConsumer {
  const GemmChainParams& chain;
  StreamShared<Config> shared;
  int rank;
  ChainSignals& signals;
  GridMeeting<Config> meeting{chain.meetings};
  RingPlace<Config::kStages> at{};
  uint32_t handover_parity = 0;

  template <int i>
  __device__ __forceinline__ void Run() {
    using Link = std::tuple_element_t<i, ChainLinks>;
    const GemmI4F8Params& p = chain.gemm[i];
    const ChainShare share(p, rank);
    // Whoever has nothing to do any more makes room for the kernel behind.
    if (i > 0 && i + 1 == chain.count && share.run.count == 0) return meeting.Come();
    if constexpr (Link::kNorm) {
      using Row = typename ResidentShare<Config, Link::kGroups>::TokenRow;
      const WeightsAtHand<Row> norm(p.norm, p.groups * kGroup);
      Wait<i>();
      MakeResidentTokens<Config, Link::kGroups>(p, norm, shared.resident());
    } else {
      Wait<i>();
      MakeResidentTokens<Config, Link::kGroups>(p, NoNorm{}, shared.resident());
    }
    if (threadIdx.x == 0) signals.tokens_made = i + 1;
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
  __device__ __forceinline__ void Wait() {
    if constexpr (i == 0) {
      GridDependencyWait();
      meeting.Open();
    } else {
      meeting.Meet();
    }
  }
};

// One warp: the scales of the CTA's rows into the L2, where outputs find them without waiting
// behind weights.
template <class Config>
__device__ __forceinline__ void PrefetchRowScales(const GemmI4F8Params& p, int rank) {
  constexpr int kTileFloats = Config::kRowBlocks * kTileRows;
  constexpr int kLine = 32;  // floats
  const ChainShare share(p, rank);
  const float* scales = p.row_scales + (share.first_tile + share.run.first) * kTileFloats;
  for (int at = static_cast<int>(threadIdx.x % 32) * kLine; at < share.run.count * kTileFloats;
       at += 32 * kLine)
    PrefetchL2(scales + at);
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
  __shared__ ChainSignals signals;
  ChainWeights<Config> weights{{chain.gemm[0], shared, first.run, first.first_tile}};
  if (warp == kWeightsWarp) {
    if (lane == 0) {
      MbarrierInit(&signals.piece, 1);
      signals.tokens_made = 0;
      weights.CopyFirst(maps.steps[0]);
    }
  } else if (lane == 0) {
    shared.InitEmpty(warp);
    if (warp == 0) MbarrierInit(shared.handed_over(), 1);
    FenceMbarrierInit();
  }
  __syncthreads();
  ClusterArriveRelaxed();  // this CTA's barrier is there -> the other may send
  GridDependencyLaunch();
  if (warp >= kWeightsWarp) {
    RegistersDecrease<Config::kProducerRegisters>();
    if (warp == kWeightsWarp && lane == 0) {
      weights.CopyLink(maps.steps[0], maps.pieces[0], 0, signals);
      RingPlace<Config::kStages> at = weights.at;
      uint32_t piece_parity = weights.piece_parity;
#pragma unroll 1
      for (int i = 1; i < chain.count; ++i) {
        const ChainShare next(chain.gemm[i], rank);
        ChainWeights<Config> link{{chain.gemm[i], shared, next.run, next.first_tile, at},
                                  piece_parity};
        link.CopyLink(maps.steps[i], maps.pieces[i], i, signals);
        at = link.at;
        piece_parity = link.piece_parity;
      }
    }
    if (warp == kWeightsWarp + 1) {
#pragma unroll 1
      for (int i = 0; i < chain.count; ++i) PrefetchRowScales<Config>(chain.gemm[i], rank);
    }
    __syncwarp();
    ClusterWait();
  } else {
    ClusterWait();
    RegistersIncrease<Config::kConsumerRegisters>();
    ChainConsumer<Config> consumer{chain, shared, rank, signals};
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
