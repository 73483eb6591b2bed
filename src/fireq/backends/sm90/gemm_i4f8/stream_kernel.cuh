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

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/operand.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/resident_tokens.cuh"
#include "fireq/backends/sm90/gemm_i4f8/ring.cuh"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

// cp.async of 4 bytes, or of zeros; PTX ISA, "cp.async".
__device__ __forceinline__ void CopyFloatAsync(void* shared, const float* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(valid ? 4 : 0)
               : "memory");
}
// cp.async.mbarrier.arrive.noinc: arrives once all cp.async of this thread so far have landed.
__device__ __forceinline__ void CopyAsyncArrive(Mbarrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(SharedAddress(barrier))
               : "memory");
}

template <class Config>
struct StreamShared {
  uint8_t* base;  // of the ring, behind the resident tokens
  __device__ uint8_t* x(int stage) const { return base + stage * Config::kStageBytes; }
  __device__ uint8_t* w(int stage) const { return x(stage) + Config::kXBytes; }
  __device__ float* sums(int stage) const {
    return reinterpret_cast<float*>(w(stage) + Config::kWeightBytes);
  }
  // Partial sums [group of the unit][token][row], pitch kSumPitch. Tails reuse the drained ring.
  __device__ float* partial(bool tail) const {
    return reinterpret_cast<float*>(tail ? base : base + Config::kRingBytes);
  }
  // The part of the pair's shared tile that rank 1 computes: made there, copied to rank 0.
  __device__ float* handover() const { return partial(false) + Config::kPartialBytes / 4; }
  __device__ Mbarrier* handed_over() const { return empty(Config::kStages); }
  __device__ Mbarrier* full(int stage) const {
    return reinterpret_cast<Mbarrier*>(base - Config::kResidentBytes + Config::kBarrierOffset) +
           stage;
  }
  __device__ Mbarrier* empty(int stage) const { return full(stage) + Config::kStages; }
  __device__ ResidentTokens<Config> resident() const { return {base - Config::kResidentBytes}; }
};

// The two producer warps. What a step needs is computed once a segment: one warp's instructions are
// slow, and a step has little more than the time of its copies.
template <class Config>
struct StreamProducer {
  const GemmI4F8Params& p;
  StreamShared<Config> shared;
  ClusterSchedule schedule;
  int rank;
  int first_tile;  // of the cluster
  RingPlace<Config::kStages> at{0, 1};

  // One thread: weights do not depend on the kernel before this one, so the ring fills while that
  // one drains. One copy a step: each costs its issuer and the engine some 300 clocks whatever its
  // size. What lies past the weight's end arrives as zeros.
  __device__ void CopyWeights(const CUtensorMap& w_map) {
    const int count = schedule.NumSegments(rank);
    for (int i = 0; i < count; ++i) {
      const Segment segment = schedule.At(rank, i);
      const int block = (first_tile + segment.tile) % p.super_blocks * Config::kRowBlocks;
      for (int unit = segment.begin; unit < segment.end; ++unit, at.Next()) {
        MbarrierWait(shared.empty(at.stage), at.parity);
        MbarrierArriveExpectTx(shared.full(at.stage), Config::kWeightBytes);
        TmaLoad4D(shared.w(at.stage), &w_map, 0, 0, unit * Config::kGroups, block,
                  shared.full(at.stage), kEvictFirst);
      }
    }
  }

  // One warp: codes by the copy engine, sums by asynchronous loads of single floats.
  __device__ void CopyTokens(const CUtensorMap& x_map, int lane) {
    constexpr int kSums = Config::kGroups * Config::kTokens;
    constexpr int kTurns = CeilDiv(kSums, 32);
    GridDependencyWait();
    const int count = schedule.NumSegments(rank);
    for (int i = 0; i < count; ++i) {
      const Segment segment = schedule.At(rank, i);
      const int token = (first_tile + segment.tile) / p.super_blocks * Config::kTokens;
      int group = segment.begin * Config::kGroups;
      const float* sum[kTurns];
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int item = turn * 32 + lane;
        sum[turn] = p.x_sums + static_cast<int64_t>(token + item % Config::kTokens) * p.groups +
                    group + item / Config::kTokens;
      }
      for (int unit = segment.begin; unit < segment.end; ++unit, at.Next()) {
        const int groups = min(Config::kGroups, p.groups - group);
        MbarrierWait(shared.empty(at.stage), at.parity);
        if (p.x_box_groups == Config::kGroups) {
          if (lane == 0) {
            MbarrierArriveExpectTx(shared.full(at.stage), Config::kXBytes);
            TmaLoad3D(shared.x(at.stage), &x_map, 0, token, group, shared.full(at.stage),
                      kEvictLast);
          }
        } else {
          // A last group that is short ends inside a row, which a box of whole groups cannot say.
          if (lane == 0) MbarrierArriveExpectTx(shared.full(at.stage), Config::kXBytes);
          __syncwarp();
          if (lane < Config::kGroups)
            TmaLoad3D(shared.x(at.stage) + lane * Config::kXGroupBytes, &x_map,
                      (group + lane) * kGroup, token, 0, shared.full(at.stage), kEvictLast);
        }
#pragma unroll
        for (int turn = 0; turn < kTurns; ++turn) {
          const int item = turn * 32 + lane;
          const bool valid =
              item / Config::kTokens < groups && token + item % Config::kTokens < p.m;
          if (item < kSums)
            CopyFloatAsync(shared.sums(at.stage) + item, valid ? sum[turn] : p.x_sums, valid);
          sum[turn] += Config::kGroups;
        }
        CopyAsyncArrive(shared.full(at.stage));
        group += Config::kGroups;
      }
    }
  }
};

template <class Config>
struct StreamConsumer {
  static constexpr int kTokens = Config::kTokens;
  const GemmI4F8Params& p;
  StreamShared<Config> shared;
  int thread;  // of the warpgroup
  int block;   // which of the unit's row blocks
  int group;   // the first of the unit's groups that are this warpgroup's
  RingPlace<Config::kStages> at{};
  int unit = 0;  // of K, at hand

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
  __device__ void Multiply(float (&acc)[kTokens / 2], uint32_t (&a)[16], int g) const {
    ExactOperands(LoadCodes(Tile(g), thread), a);
    WgmmaFence();
    MultiplyGroup<kTokens>(acc, a, DescriptorSwizzle128(Codes(g)), 0);
    WgmmaCommit();
  }
  __device__ const uint8_t* Tile(int g) const {
    return shared.w(at.stage) + (block * Config::kGroups + g) * kTileBytes;
  }
  // total -= scale x zero point x sum of tokens, while the products are on their way.
  __device__ void AddZeroPoints(float (&total)[kTokens / 2], const GroupScales& scales,
                                int g) const {
    const float* sums = Sums(g) + 2 * (thread % 4);
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
  __device__ void AddStep(float (&total)[kTokens / 2]) const {
    const int warp = thread / 32, lane = thread % 32;
    float acc[kTokens / 2];
    uint32_t a[16];
    Multiply(acc, a, group);
    const GroupScales scales = MakeGroupScales(LoadScaleZeros(Tile(group), warp, lane));
    if constexpr (Config::kGroupsPerWarpgroup == 1) {
      AddZeroPoints(total, scales, group);
      WgmmaWait<0>();
      Promote(total, acc, scales);
    } else {
      const int second = group + Config::kGroupSets;
      float second_acc[kTokens / 2];
      uint32_t second_a[16];
      Multiply(second_acc, second_a, second);
      const GroupScales second_scales = MakeGroupScales(LoadScaleZeros(Tile(second), warp, lane));
      AddZeroPoints(total, scales, group);
      AddZeroPoints(total, second_scales, second);
      WgmmaWait<1>();
      Promote(total, acc, scales);
      WgmmaWait<0>();
      Promote(total, second_acc, second_scales);
    }
  }

  __device__ void Accumulate(float (&total)[kTokens / 2], const Segment& segment) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) total[i] = 0.0f;
#pragma unroll 1
    for (unit = segment.begin; unit < segment.end; ++unit) {
      MbarrierWait(shared.full(at.stage), at.parity);
      if (Config::kGroups == 1 || unit * Config::kGroups + group < p.groups) AddStep(total);
      // Orders this warp's reads of the stage before the producer's next copy into it.
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

// Where the parts of one tile lie, lowest units of K first: the front in CTA `first` of the
// cluster, the others in the CTAs after it (`stride` 1) or in the same (0).
template <class Config>
struct PartialSums {
  const float* front;  // place of the first rank's part in its shared memory
  const float* rest;   // and of the others'
  int first;
  int count;
  int stride;

  // Four neighbouring packed rows of a token, added in the order of K.
  __device__ float4 Sum(int token, int row) const {
    float4 sum{0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int r = 0; r < count; ++r) {
      const uint32_t part = ClusterAddress(r == 0 ? front : rest, first + r * stride);
#pragma unroll
      for (int g = 0; g < Config::kGroupSets; ++g) {
        const float4 v =
            LoadCluster128(part + 4 * ((g * Config::kTokens + token) * Config::kSumPitch + row));
        sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
      }
    }
    return sum;
  }
};

// Outputs [share / shares, (share + 1) / shares) of a tile.
template <class Config, class Epilogue>
__device__ __forceinline__ void FinishTile(const GemmI4F8Params& p, const float* x_scales,
                                           const PartialSums<Config>& partials, int tile, int share,
                                           int shares, int thread) {
  constexpr int kOutRows = Config::kRowBlocks * kTileRows / Epilogue::kRowsPerOutput;
  constexpr int kItems = Config::kTokens * kOutRows / 4;
  const int super_block = tile % p.super_blocks;
  const int first_token = tile / p.super_blocks * Config::kTokens;
  const int out_rows = p.row_blocks * kTileRows / Epilogue::kRowsPerOutput;
  const int end = kItems * (share + 1) / shares;
#pragma unroll 1
  for (int i = kItems * share / shares + thread; i < end; i += Config::kConsumerThreads) {
    const int token = first_token + i / (kOutRows / 4);
    const int local = i % (kOutRows / 4) * 4;
    const int out_row = super_block * kOutRows + local;
    if (token >= p.m || out_row >= out_rows) continue;
    const int row = Epilogue::kRowsPerOutput == 1 ? local : local / 8 * 16 + local % 8;
    const int packed_row = super_block * Config::kRowBlocks * kTileRows + row;
    const float x_scale = x_scales[token];
    const int64_t at = token * p.ldy + out_row;
    float4 v = ScaleAndBias(p, partials.Sum(i / (kOutRows / 4), row), x_scale, packed_row);
    uint2 out;
    if constexpr (Epilogue::kRowsPerOutput == 2) {
      const float4 up =
          ScaleAndBias(p, partials.Sum(i / (kOutRows / 4), row + 8), x_scale, packed_row + 8);
      out = PlainEpilogue::Finish(p, Epilogue::Combine(v, up), at);
    } else {
      out = Epilogue::Finish(p, v, at);
    }
    *reinterpret_cast<uint2*>(p.y + at) = out;
  }
}

template <class Config>
__device__ __forceinline__ const float* TokenScales(const GemmI4F8Params& p,
                                                    const StreamShared<Config>& shared) {
  return Config::kResident ? shared.resident().scales() : p.x_scales;
}

// The consumers' share of a CTA's run: whole tiles are finished, parts are left in shared memory.
template <class Config, class Epilogue>
__device__ __forceinline__ void StreamConsume(const GemmI4F8Params& p,
                                              const StreamShared<Config>& shared,
                                              const ClusterSchedule& schedule, int rank,
                                              int first_tile) {
  const int warpgroup = threadIdx.x / 128;
  StreamConsumer<Config> consumer{p, shared, static_cast<int>(threadIdx.x % 128),
                                  warpgroup / Config::kGroupSets, warpgroup % Config::kGroupSets};
  GridDependencyWait();  // token scales and the residual are the kernel's before this one
  if constexpr (Config::kResident) MakeResidentTokens<Config>(p, shared.resident());
  const float* x_scales = TokenScales(p, shared);
  float total[Config::kTokens / 2];
  const int count = schedule.NumSegments(rank);
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const Segment segment = schedule.At(rank, i);
    consumer.Accumulate(total, segment);
    const bool whole = segment.whole(p.units);
    const bool tail = !whole && segment.begin == 0;
    if (Config::kPairs && schedule.pair && !whole) {
      consumer.StorePartial(total, tail ? shared.partial(false) : shared.handover());
      if (tail) {
        MbarrierWait(shared.handed_over(), 0);
      } else {
        FenceProxyAsync();  // sums written -> sums copied
      }
      NamedBarrierSync(1, Config::kConsumerThreads);
      if (tail) {
        const PartialSums<Config> both{shared.partial(false), shared.handover(), rank, 2, 0};
        FinishTile<Config, Epilogue>(p, x_scales, both, first_tile + segment.tile, 0, 1,
                                     threadIdx.x);
      } else if (threadIdx.x == 0) {
        BulkSendToCluster(shared.handover(), Config::kPartialBytes, shared.handed_over(), 0);
      }
      continue;
    }
    // Before a tail overwrites the ring, every warpgroup has read its last stage.
    if (tail) NamedBarrierSync(1, Config::kConsumerThreads);
    consumer.StorePartial(total, shared.partial(tail));
    if (!whole) continue;
    NamedBarrierSync(1, Config::kConsumerThreads);  // sums written -> sums read
    const PartialSums<Config> own{shared.partial(false), nullptr, rank, 1, 0};
    FinishTile<Config, Epilogue>(p, x_scales, own, first_tile + segment.tile, 0, 1, threadIdx.x);
    NamedBarrierSync(1, Config::kConsumerThreads);  // sums read -> next sums written
  }
}

// The parts of shared tiles, once all ranks have left theirs: each rank finishes a share.
template <class Config, class Epilogue>
__device__ __forceinline__ void StreamCombine(const GemmI4F8Params& p,
                                              const StreamShared<Config>& shared,
                                              const ClusterSchedule& schedule, int rank,
                                              int first_tile) {
  const int count = schedule.NumSegments(rank);
  for (int i = max(0, count - 2); i < count; ++i) {
    const Segment segment = schedule.At(rank, i);
    if (segment.whole(p.units)) continue;
    const int first = schedule.FirstRank(segment.tile), last = schedule.LastRank(segment.tile);
    const PartialSums<Config> parts{shared.partial(true), shared.partial(false), first,
                                    last - first + 1, 1};
    FinishTile<Config, Epilogue>(p, TokenScales(p, shared), parts, first_tile + segment.tile,
                                 rank - first, parts.count, threadIdx.x);
  }
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Stream(const __grid_constant__ GemmI4F8Params p,
                   const __grid_constant__ GemmMaps maps) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const StreamShared<Config> shared{dynamic_shared + Config::kResidentBytes};
  const int warp = threadIdx.x / 32;
  const int rank = static_cast<int>(ClusterRank());
  const int ranks = static_cast<int>(ClusterSize());
  const int first_tile = blockIdx.x / ranks * p.tiles_per_cluster;
  const ClusterSchedule schedule{min(p.tiles_per_cluster, p.tiles - first_tile), p.units, ranks,
                                 Config::kPairs && ranks == 2};
  // A warp's share each: one after another they would take a thread a microsecond.
  if (threadIdx.x % 32 == 0) {
    for (int s = warp; s < Config::kStages; s += Config::kThreads / 32) {
      // Two announcers of copies, 32 lanes of cp.async; or the weights' alone.
      MbarrierInit(shared.full(s), Config::kResident ? 1 : 2 + 32);
      MbarrierInit(shared.empty(s), Config::kConsumerThreads / 32);
    }
    if (schedule.pair && warp == Config::kThreads / 32 - 1) {
      MbarrierInit(shared.handed_over(), 1);
      MbarrierArriveExpectTx(shared.handed_over(), Config::kPartialBytes);
    }
    FenceMbarrierInit();
  }
  __syncthreads();
  if (schedule.pair) ClusterArriveRelaxed();  // rank 0's barrier is there -> rank 1 may send
  GridDependencyLaunch();
  const bool has_work = schedule.RunUnits(rank) > 0;
  if (warp >= Config::kConsumerThreads / 32) {
    if constexpr (Config::kMovesRegisters) RegistersDecrease<Config::kProducerRegisters>();
    const int producer = warp - Config::kConsumerThreads / 32;
    const int lane = threadIdx.x % 32;
    StreamProducer<Config> copies{p, shared, schedule, rank, first_tile};
    if (has_work && producer == 0 && lane == 0) copies.CopyWeights(maps.weights);
    if constexpr (!Config::kResident) {
      if (has_work && producer == 1) copies.CopyTokens(maps.tokens, lane);
    }
    __syncwarp();
    if (schedule.pair) ClusterWait();
  } else {
    if (schedule.pair) ClusterWait();
    if constexpr (Config::kMovesRegisters) RegistersIncrease<Config::kConsumerRegisters>();
    if (has_work) StreamConsume<Config, Epilogue>(p, shared, schedule, rank, first_tile);
  }
  if (ranks == 1) return;
  __syncwarp();
  if (!schedule.pair) {
    ClusterSync();  // partial sums of all ranks written -> read
    if (has_work && warp < Config::kConsumerThreads / 32)
      StreamCombine<Config, Epilogue>(p, shared, schedule, rank, first_tile);
    __syncwarp();
  }
  ClusterArriveRelaxed();  // a rank's shared memory stays until the others have read it
  ClusterWait();
}

}  // namespace fireq::sm90
