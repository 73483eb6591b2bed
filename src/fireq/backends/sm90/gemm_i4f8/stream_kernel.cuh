// The GEMM where memory binds (*exact*): a reader of weights that hides everything else behind
// them.
//
// One CTA a multiprocessor. A producer warp keeps a ring of units in flight (kRowBlocks tiles of
// weights x kGroups groups of K, with the tokens' E4M3 codes and group sums); kRowBlocks x kGroups
// warpgroups turn codes into operands, multiply, and promote each group's sums to FP32 with its
// scale and zero point. K is cut inside clusters (schedule.h) so that every CTA reads as much as
// the next; partial sums meet in shared memory, across the cluster if need be, and are added in a
// fixed order: results are the same from run to run.
#pragma once

#include <cuda.h>
#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/operand.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"
#include "fireq/backends/sm90/gemm_i4f8/stream_copies.cuh"
#include "fireq/backends/sm90/gemm_i4f8/stream_ends.cuh"
#include "fireq/backends/sm90/gemm_i4f8/stream_outputs.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/ring.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <class Config>
struct StreamConsumer {
  static constexpr int kTokens = Config::kTokens;
  // Whether codes are read under the products of the step before, if their stage has come by then,
  // and what zero points need behind a step's products: left to the compiler that comes between
  // them. With fewer tokens a stage has not come, and four warpgroups of two groups have no
  // registers for it.
  static constexpr bool kReadsAhead = kTokens == 32 || kTokens == 64;
  // Codes of this warpgroup's groups of a step, and whether they have been read.
  struct StepCodes {
    uint32_t address = 0;  // of the thread's in stage 0
    CodeWords group[Config::kGroupsPerWarpgroup] = {};
    bool read = false;

    __device__ explicit StepCodes(const StreamConsumer& of) {
      if constexpr (kReadsAhead) {
        address = SharedAddress(of.Tile(0, of.group) + of.thread * 16);
        asm volatile("" : "+r"(address));  // worked out once, not at every step
      }
    }
    // Those of a stage, if it is `there`. Without a branch, past which the compiler would move zero
    // points to where products have been waited for.
    __device__ void Read(int stage, bool there) {
      read = there;
#pragma unroll
      for (int i = 0; i < Config::kGroupsPerWarpgroup; ++i) {
        const uint32_t from =
            address + stage * Config::kStageBytes + i * Config::kGroupSets * kTileBytes;
        uint32_t(&word)[8] = group[i].word;
        LoadShared128If(there, from, word[0], word[1], word[2], word[3]);
        LoadShared128If(there, from + kTileCodeBytes / 2, word[4], word[5], word[6], word[7]);
      }
    }
  };
  __device__ void ReadNext(StepCodes& codes) const {
    RingPlace<Config::kStages> next = at;
    next.Next();
    codes.Read(next.stage, MbarrierTestWait(shared.full(next.stage), next.parity));
  }

  const GemmI4F8Params& p;
  StreamShared<Config> shared;
  int thread;  // of the warpgroup
  int block;   // which of the unit's row blocks
  int group;   // the first of the unit's groups that are this warpgroup's
  RingPlace<Config::kStages> at{};
  int unit = 0;  // of K, at hand
  uint32_t handover_parity = 0;

  // Tokens' codes and sums of group g of the step.
  __device__ const uint8_t* Codes(int g) const {
    if constexpr (Config::kResident) return shared.resident().codes(unit * Config::kGroups + g);
    return shared.x(at.stage) + g * Config::kXGroupBytes;
  }
  __device__ const float* Sums(int g) const {
    if constexpr (Config::kResident) return shared.resident().sums(unit * Config::kGroups + g);
    return shared.sums(at.stage) + g * kTokens;
  }

  // Starts the products of one group of the step.
  __device__ void Multiply(float (&acc)[kTokens / 2], const uint32_t (&a)[16], int g) const {
    WgmmaFence();
    const uint64_t x =
        Config::kResident ? DescriptorOfVector(Codes(g)) : DescriptorSwizzle128(Codes(g));
    MultiplyGroup<kTokens>(acc, a, x, 0);
    WgmmaCommit();
  }
  __device__ const uint8_t* Tile(int stage, int g) const {
    return shared.w(stage) + (block * Config::kGroups + g) * kTileBytes;
  }
  __device__ GroupScales Scales(int g, int after_products = 0) const {
    return MakeGroupScales(
        LoadScaleZeros(Tile(at.stage, g) + after_products, thread / 32, thread % 32));
  }
  // Zero, as the compiler cannot know: a part of the addresses that are to be read behind this.
  __device__ int AfterProducts() const {
    if constexpr (!kReadsAhead) return 0;
    return static_cast<int>(Clock() & SharedAddress(shared.w(0)) >> 31);
  }
  // total -= scale x zero point x sum of tokens, while the products are on their way.
  __device__ void AddZeroPoints(float (&total)[kTokens / 2], const GroupScales& scales, int g,
                                int after_products = 0) const {
    const float* sums = Sums(g) + 2 * (thread % 4) + after_products;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const float2 x_sum = *reinterpret_cast<const float2*>(sums + 8 * j);
      // Sums are wanted four columns at a time: loaded all at once they cost more registers than
      // there are.
      if (j % 4 == 3) asm volatile("" ::: "memory");
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        total[4 * j + 2 * h] = fmaf(scales.neg_offset[h], x_sum.x, total[4 * j + 2 * h]);
        total[4 * j + 2 * h + 1] = fmaf(scales.neg_offset[h], x_sum.y, total[4 * j + 2 * h + 1]);
      }
    }
  }
  // total += scale x products.
  __device__ static void Promote(float (&total)[kTokens / 2], float (&acc)[kTokens / 2],
                                 const GroupScales& scales) {
    PinRegisters(acc);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i)
      total[i] = fmaf(scales.scale[(i / 2) % 2], acc[i], total[i]);
  }

  // One step: this warpgroup's groups of it. Groups past K are zeros (weights, tokens, sums).
  // `codes` of the step become those of the next, if these are there.
  __device__ void AddStep(float (&total)[kTokens / 2], StepCodes& codes) const {
    constexpr bool kTwo = Config::kGroupsPerWarpgroup > 1;
    const int second = group + Config::kGroupSets;
    float acc[kTokens / 2], second_acc[kTokens / 2];
    uint32_t a[16], second_a[16];
    if constexpr (kReadsAhead) {
      ExactOperands(codes.group[0], a);
      if constexpr (kTwo) ExactOperands(codes.group[1], second_a);
      // Else the compiler makes them one product at a time, and fences each.
      PinRegisters(a);
      if constexpr (kTwo) PinRegisters(second_a);
    } else {
      ExactOperands(LoadCodes(Tile(at.stage, group), thread), a);
    }
    Multiply(acc, a, group);
    GroupScales scales;
    if constexpr (!kReadsAhead) scales = Scales(group);
    if constexpr (!kTwo) {
      const int after = AfterProducts();
      if constexpr (kReadsAhead) scales = Scales(group, after);
      AddZeroPoints(total, scales, group, after);
      if constexpr (kReadsAhead) ReadNext(codes);
      WgmmaWait<0>();
      Promote(total, acc, scales);
    } else {
      if constexpr (!kReadsAhead)
        ExactOperands(LoadCodes(Tile(at.stage, second), thread), second_a);
      Multiply(second_acc, second_a, second);
      const int after = AfterProducts();
      if constexpr (kReadsAhead) scales = Scales(group, after);
      const GroupScales second_scales = Scales(second, after);
      AddZeroPoints(total, scales, group, after);
      AddZeroPoints(total, second_scales, second, after);
      if constexpr (kReadsAhead) ReadNext(codes);
      WgmmaWait<1>();
      Promote(total, acc, scales);
      WgmmaWait<0>();
      Promote(total, second_acc, second_scales);
    }
  }

  __device__ void Accumulate(float (&total)[kTokens / 2], const Segment& segment) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) total[i] = 0.0f;
    StepCodes codes(*this);
#pragma unroll 1
    for (unit = segment.begin; unit < segment.end; ++unit) {
      if (!kReadsAhead || !codes.read) {
        MbarrierWait(shared.full(at.stage), at.parity);
        if constexpr (kReadsAhead) codes.Read(at.stage, true);
      }
      if (Config::kGroups == 1 || unit * Config::kGroups + group < p.groups) AddStep(total, codes);
      // Orders this warp's reads of the stage before the producer's next copy into it.
      __syncwarp();
      if (thread % 32 == 0) MbarrierArrive(shared.empty(at.stage));
      at.Next();
    }
  }

  __device__ void StorePartial(const float (&total)[kTokens / 2], float* partial) const {
    const int lane = thread % 32;
    float* to = partial + (group * kTokens + 2 * (lane % 4)) * Config::kSumPitch +
                block * kTileRows + 16 * (thread / 32) + lane / 4;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        to[(8 * j + i % 2) * Config::kSumPitch + 8 * (i / 2)] = total[4 * j + i];
  }
};

template <class Config>
__device__ __forceinline__ const float* TokenScales(const GemmI4F8Params& p,
                                                    const StreamShared<Config>& shared) {
  return Config::kResident ? shared.resident().scales() : p.x_scales;
}

// What becomes of a segment's sums: outputs of a whole tile and of a pair's; other parts are left
// in shared memory. make_outputs(): of the tile, called if they are wanted.
template <class Config, class MakeOutputs>
__device__ __forceinline__ void StreamFinish(const StreamShared<Config>& shared,
                                             const StreamConsumer<Config>& consumer,
                                             const float (&total)[Config::kTokens / 2], bool whole,
                                             bool tail, bool of_pair,
                                             const MakeOutputs& make_outputs) {
  if (of_pair) {
    consumer.StorePartial(total, tail ? shared.partial(false) : shared.handover());
    if (tail) {
      const auto outputs = make_outputs();
      MbarrierWait(shared.handed_over(), consumer.handover_parity);
      NamedBarrierSync(1, Config::kConsumerThreads);
      outputs.Store(LocalSums<Config, 2>{shared.partial(false), shared.handover()});
    } else {
      FenceProxyAsync();  // sums written -> sums copied
      NamedBarrierSync(1, Config::kConsumerThreads);
      if (threadIdx.x == 0)
        BulkSendToCluster(shared.handover(), shared.handover(), Config::kPartialBytes,
                          shared.handed_over(), 0);
    }
    return;
  }
  // Before a tail overwrites the ring, every warpgroup has read its last stage.
  if (tail) NamedBarrierSync(1, Config::kConsumerThreads);
  consumer.StorePartial(total, shared.partial(tail));
  if (!whole) return;
  const auto outputs = make_outputs();
  NamedBarrierSync(1, Config::kConsumerThreads);  // sums written -> sums read
  outputs.Store(LocalSums<Config, 1>{shared.partial(false)});
  NamedBarrierSync(1, Config::kConsumerThreads);  // sums read -> next sums written
}

template <class Config>
__device__ __forceinline__ StreamConsumer<Config> MakeConsumer(const GemmI4F8Params& p,
                                                               const StreamShared<Config>& shared) {
  const int warpgroup = threadIdx.x / 128;
  return {p, shared, static_cast<int>(threadIdx.x % 128), warpgroup / Config::kGroupSets,
          warpgroup % Config::kGroupSets};
}

// The consumers' share of a CTA's run, once its tokens are there: whole tiles are finished, parts
// are left in shared memory. `exchanging`: how many CTAs exchange their parts of the cluster's one
// tile, or 0.
template <class Config, class Epilogue>
__device__ __forceinline__ void StreamSegments(const GemmI4F8Params& p,
                                               const StreamShared<Config>& shared,
                                               StreamConsumer<Config>& consumer,
                                               const ClusterRun& run, int exchanging, int rank,
                                               int first_tile) {
  using Outputs = TileOutputs<Config, Epilogue>;
  const float* x_scales = TokenScales(p, shared);
  float total[Config::kTokens / 2];
#pragma unroll 1
  for (int i = 0; i < run.count; ++i) {
    const Segment segment = run.At(i);
    const bool whole = segment.whole(p.units.value);
    const bool tail = !whole && segment.begin == 0;
    const bool of_pair = Config::kPairs && run.pair && !whole;
    const int tile = first_tile + segment.tile;
    // What outputs need of memory is on its way before the sums, where registers hold it; else it
    // is asked for behind them.
    const bool finishes = whole || (of_pair && tail);
    if constexpr (Outputs::kOneEach && !Config::kExchanges) {
      const Outputs outputs(p, x_scales, tile, 0, finishes ? Outputs::kItems : 0);
      consumer.Accumulate(total, segment);
      StreamFinish<Config>(shared, consumer, total, whole, tail, of_pair, [&] { return outputs; });
    } else {
      consumer.Accumulate(total, segment);
      if (Config::kExchanges && exchanging > 0) {
        consumer.StorePartial(total, shared.partial(false));
        StreamExchange<Config, Epilogue>(p, shared, x_scales, rank, exchanging, tile);
        return;
      }
      StreamFinish<Config>(shared, consumer, total, whole, tail, of_pair,
                           [&] { return Outputs(p, x_scales, tile); });
    }
  }
}

template <class Config, class Epilogue>
__device__ __forceinline__ void StreamConsume(const GemmI4F8Params& p,
                                              const StreamShared<Config>& shared,
                                              const ClusterRun& run, int exchanging, int rank,
                                              int first_tile) {
  StreamConsumer<Config> consumer = MakeConsumer(p, shared);
  // Token scales, resident tokens and the residual are the kernel's before this one.
  if constexpr (Config::kResident) {
    const auto norm = ResidentShare<Config>::Norm(p);
    GridDependencyWait();
    MakeResidentTokens<Config>(p, norm, shared.resident());
  } else {
    GridDependencyWait();
  }
  if constexpr (Epilogue::kSends) GridDependencyLaunch();
  StreamSegments<Config, Epilogue>(p, shared, consumer, run, exchanging, rank, first_tile);
}

// The same where helpers have the ends of parts. A loop of its own: what an owner waits for would
// cost the loop above instructions.
template <class Config, class Epilogue>
__device__ __forceinline__ void StreamConsumeEnds(const GemmI4F8Params& p,
                                                  const StreamShared<Config>& shared,
                                                  const ClusterRun& run, int rank) {
  StreamConsumer<Config> consumer = MakeConsumer(p, shared);
  GridDependencyWait();
  if constexpr (Epilogue::kSends) GridDependencyLaunch();
  float total[Config::kTokens / 2];
#pragma unroll 1
  for (int i = 0;; ++i) {
    consumer.Accumulate(total, EndsSchedule::At(run, i, p.ranks));
    if (run.begin == 0) break;
    EndOfPart<Config>(p, run.first + i).HandOver(total);
    if (i + 1 == run.count) return;
  }
  EndOfPart<Config>(p, run.first).AddTo(total);
  const float* const x_scales = TokenScales(p, shared);
  const int tile = run.first / p.ranks;
  if (p.ranks.value > 1) {
    consumer.StorePartial(total, shared.partial(false));
    StreamExchange<Config, Epilogue>(p, shared, x_scales, rank, p.ranks.value, tile);
  } else {
    StreamFinish<Config>(shared, consumer, total, true, false, false,
                         [&] { return TileOutputs<Config, Epilogue>(p, x_scales, tile); });
  }
}

// The parts of shared tiles, once all ranks have left theirs: each rank finishes a share.
template <class Config, class Epilogue, class Schedule>
__device__ __forceinline__ void StreamCombine(const GemmI4F8Params& p,
                                              const StreamShared<Config>& shared,
                                              const Schedule& schedule, const ClusterRun& run,
                                              int rank, int first_tile) {
  for (int i = max(0, run.count - 2); i < run.count; ++i) {
    const Segment segment = run.At(i);
    if (segment.whole(p.units.value)) continue;
    const int first = schedule.FirstRank(segment.tile), last = schedule.LastRank(segment.tile);
    const int parts = last - first + 1, share = rank - first;
    using Outputs = TileOutputs<Config, Epilogue>;
    const Outputs outputs(p, TokenScales(p, shared), first_tile + segment.tile,
                          Outputs::kItems * share / parts, Outputs::kItems * (share + 1) / parts);
    outputs.Store(ClusterSums<Config>{shared.partial(true), shared.partial(false), first, parts});
  }
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Stream(const __grid_constant__ GemmI4F8Params p,
                   const __grid_constant__ GemmMaps maps) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const StreamShared<Config> shared{dynamic_shared + Config::kResidentBytes};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int kWeightsWarp = Config::kConsumerThreads / 32, kTokensWarp = kWeightsWarp + 1;
  const int rank = static_cast<int>(ClusterRank());
  using Count = Config::Count;
  constexpr bool kDivisors = std::is_same_v<Count, Divisor>;
  const int ranks = kDivisors ? p.ranks.value : static_cast<int>(ClusterSize());
  bool ends = false;
  if constexpr (Config::kHasHelpers) ends = p.end_units > 0;
  int first_tile = ClusterId() * p.tiles_per_cluster;
  if (ends) first_tile = max(0, first_tile - p.helpers.value / p.ranks);
  const int tiles = min(p.tiles_per_cluster, p.tiles - first_tile);
  const bool exchanges = Config::kExchanges && ranks > 1 && tiles == 1;
  const bool pair = Config::kPairs && ranks == 2 && !exchanges;
  const bool sends = pair || exchanges;
  const ClusterSchedule<Count> schedule{tiles, CountOf<Count>(p.units), CountOf<Count>(p.ranks),
                                        pair};
  ClusterRun run(schedule, rank);
  if (ends)
    run =
        EndsSchedule{p.tiles * p.ranks.value, p.units.value / p.ranks, p.end_units, p.helpers}.Run(
            static_cast<int>(blockIdx.x));
  if constexpr (kDivisors)  // now: cheap as its divisions are, they would be made again later
    asm volatile("" : "+r"(run.begin), "+r"(run.end), "+r"(run.first), "+r"(run.count));
  const bool has_work = run.count > 0;
  const int tile_before = ends ? 0 : first_tile;  // the run's number 0
  StreamWeights<Config> weights{p, shared, run, tile_before};
  if (warp == kWeightsWarp) {
    if (CopiesOfWarp<Config>(lane)) weights.CopyFirst(maps.weights);
  } else if (lane == 0) {
    if (warp == kTokensWarp && !Config::kResident) PrefetchTensorMap(&maps.tokens);
    shared.InitEmpty(warp);
    if (warp == 0 && sends) {
      MbarrierInit(shared.handed_over(), 1);
      const uint32_t bytes =
          pair ? Config::kPartialBytes
               : ExchangedSums<Config>(shared, rank, ranks, TokensOf<Config>(p, first_tile))
                         .bytes() *
                     (Config::kGroupSets * (ranks - 1));
      MbarrierArriveExpectTx(shared.handed_over(), bytes);
    }
    FenceMbarrierInit();
  }
  __syncthreads();
  if (sends) ClusterArriveRelaxed();  // a rank's barrier is there -> the others may send
  // Who waits for what is sent, and not for this kernel, starts behind the kernels before it.
  if constexpr (!Epilogue::kSends) GridDependencyLaunch();
  if (warp >= kWeightsWarp) {
    if constexpr (Config::kMovesRegisters) RegistersDecrease<Config::kProducerRegisters>();
    if (warp == kWeightsWarp && CopiesOfWarp<Config>(lane)) weights.CopyRest(maps.weights);
    if constexpr (!Config::kResident) {
      if (has_work && warp == kTokensWarp)
        StreamCopyTokens<Config>(p, maps.tokens, shared, run, tile_before, lane);
    }
    __syncwarp();
    if (sends) ClusterWait();
    if (!sends && ranks > 1) ClusterSync();
  } else {
    if (sends) ClusterWait();
    if constexpr (Config::kMovesRegisters) RegistersIncrease<Config::kConsumerRegisters>();
    if constexpr (Config::kHasHelpers) {
      if (ends) StreamConsumeEnds<Config, Epilogue>(p, shared, run, rank);
    }
    if (has_work && !ends)
      StreamConsume<Config, Epilogue>(p, shared, run, exchanges ? ranks : 0, rank, first_tile);
    __syncwarp();
    // In this branch: behind it there are no more registers than the producers kept.
    if (!sends && ranks > 1) {
      ClusterSync();  // partial sums of all ranks written -> read
      if (has_work) StreamCombine<Config, Epilogue>(p, shared, schedule, run, rank, first_tile);
    }
  }
  if (ranks == 1) return;
  __syncwarp();
  ClusterArriveRelaxed();  // a rank's shared memory stays until the others have read it
  ClusterWait();
}

}  // namespace fireq::sm90
