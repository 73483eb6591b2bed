// The GEMM where the tensor cores bind (*table*): operands E4M3((q - z) s) made in registers by
// FP16 arithmetic, one set of accumulators over all of K.
//
// Persistent clusters of two CTAs that share their tokens: each copies one half of the token tile
// to both. In a CTA, the consumer warpgroups convert the next group's codes while the tensor cores
// multiply the last one's. Steps run on from tile to tile: the next tile's first operands are made
// under the last one's products. The four warps of the last warpgroup keep copies going: tokens,
// weights, token scales, and outputs. Runs of tiles follow WideWalk. Small matrices have enough
// tiles for all multiprocessors only if these are of 64 rows: then the consumers share K.
#pragma once

#include <cuda.h>
#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/operand.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/ring.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_walk.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <class Config>
struct WideShared {
  uint8_t* base;
  __device__ uint8_t* x(int stage) const { return base + stage * Config::kXBytes; }
  __device__ uint8_t* w(int stage) const {
    return base + Config::kWOffset + stage * Config::kWBytes;
  }
  __device__ uint8_t* out(int warpgroup) const {
    return base + Config::kOutOffset + warpgroup * Config::kOutBytes;
  }
  __device__ float* scales() const { return reinterpret_cast<float*>(base + Config::kScaleOffset); }
  __device__ Mbarrier* x_full(int stage) const {
    return reinterpret_cast<Mbarrier*>(base + Config::kBarrierOffset) + stage;
  }
  __device__ Mbarrier* x_empty(int stage) const { return x_full(stage) + Config::kStages; }
  __device__ Mbarrier* w_full(int stage) const { return x_full(stage) + 2 * Config::kStages; }
  // One place on: the weights of a step are released together with the tokens of the step before,
  // by arrivals at the same offset.
  __device__ Mbarrier* w_empty(int stage) const {
    return x_full(3 * Config::kStages) + (stage + Config::kStages - 1) % Config::kStages;
  }
  __device__ float4* given(int warpgroup) const {
    return reinterpret_cast<float4*>(base + Config::kGivenOffset + warpgroup * Config::kGivenBytes);
  }
  // The warpgroup's output buffer is free (and has the residual) / has half of the outputs. A
  // barrier a half: one thread looks at both, and might see neither of two phases that follow close
  // on one another.
  __device__ Mbarrier* out_ready(int warpgroup) const {
    return x_full(4 * Config::kStages) + warpgroup;
  }
  __device__ Mbarrier* out_full(int half, int warpgroup) const {
    return out_ready(Config::kWarpgroups) + half * Config::kWarpgroups + warpgroup;
  }
  __device__ Mbarrier* scales_full() const { return out_full(2, 0); }
  __device__ Mbarrier* scales_empty() const { return scales_full() + 1; }
};

// One thread: this CTA's half of the cluster's tokens, to both CTAs.
template <class Config>
__device__ __forceinline__ void WideCopyTokens(const GemmI4F8Params& p, const CUtensorMap& x_map,
                                               const WideShared<Config>& shared, int rank) {
  constexpr int kHalf = Config::kTokens / Config::kClusterCtas;
  const WideWalk<Config> walk(p);
  RingPlace<Config::kStages> at{0, 1};
  for (int t = 0; t < walk.count; ++t) {
    const WideWork work = walk.At(t);  // its divisions before the wait
    if (t == 0) GridDependencyWait();
    const int token = work.tile.token_tile * Config::kTokens + rank * kHalf;
    for (int s = kWideUnitSteps * work.begin; s < kWideUnitSteps * work.end; ++s, at.Next()) {
      MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.x_full(at.stage), Config::kXBytes);
#pragma unroll
      for (int g = 0; g < Config::kGroups; ++g)
        TmaLoad2DMulticast(shared.x(at.stage) + g * Config::kXGroupBytes + rank * kHalf * kGroup,
                           &x_map, (s * Config::kGroups + g) * kGroup, token,
                           shared.x_full(at.stage), (1 << Config::kClusterCtas) - 1, kEvictLast);
    }
  }
  // The last arrivals of the other CTA's consumers land while this CTA is still there: one that
  // came later would count on a barrier of whatever runs here next.
  for (int s = 0; s < Config::kStages; ++s, at.Next())
    MbarrierWaitAsleep(shared.x_empty(at.stage), at.parity);
}

// One thread: this CTA's weights. Rows and groups past the weight's end arrive as zeros. Consumers
// read a step ahead, and so one beyond the last.
inline constexpr int kWideReadAhead = 1;

template <class Config>
__device__ __forceinline__ void WideCopyWeights(const GemmI4F8Params& p, const CUtensorMap& w_map,
                                                const WideShared<Config>& shared, int rank) {
  const WideWalk<Config> walk(p);
  RingPlace<Config::kStages> at{0, 1};
  for (int t = 0; t <= walk.count; ++t) {
    const bool beyond = t == walk.count;
    const WideWork work = walk.At(beyond ? t - 1 : t);
    const int block = work.tile.row_pair * Config::kClusterCtas + rank;
    const int begin = kWideUnitSteps * work.begin;
    const int end = beyond ? begin + kWideReadAhead : kWideUnitSteps * work.end;
    for (int s = begin; s < end; ++s, at.Next()) {
      MbarrierWaitAsleep(shared.w_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.w_full(at.stage), Config::kWBytes);
      TmaLoad4D(shared.w(at.stage), &w_map, 0, 0, s * Config::kGroups, block * Config::kRowBlocks,
                shared.w_full(at.stage), kEvictLast);
    }
  }
}

// One warp: the token scales of each output.
template <class Config>
__device__ __forceinline__ void WideCopyScales(const GemmI4F8Params& p,
                                               const WideShared<Config>& shared, int lane) {
  constexpr int kTurns = Config::kTokens / 32;
  GridDependencyWait();
  uint32_t parity = 1;
  const WideWalk<Config> walk(p);
  for (int t = 0; t < walk.count; ++t) {
    const WideOutput output = walk.OutputAt(t);
    if (output.begin == output.end) continue;
    const int token = output.tile.token_tile * Config::kTokens + lane;
    float scale[kTurns];
#pragma unroll
    for (int i = 0; i < kTurns; ++i)
      scale[i] = token + 32 * i < p.m ? __ldg(p.x_scales + token + 32 * i) : 0.0f;
    MbarrierWaitAsleep(shared.scales_empty(), parity);
#pragma unroll
    for (int i = 0; i < kTurns; ++i) shared.scales()[32 * i + lane] = scale[i];
    MbarrierArrive(shared.scales_full());
    parity ^= 1;
  }
}

// One thread: residuals to shared memory, outputs from there.
template <class Config, class Epilogue>
__device__ __forceinline__ void WideCopyOutputs(const GemmI4F8Params& p, const GemmMaps& maps,
                                                const WideShared<Config>& shared, int rank) {
  constexpr int kChunkBytes = kWideChunkBytes<Epilogue>;
  PrefetchTensorMap(&maps.outputs);
  if constexpr (kAddsResidual<Epilogue>) PrefetchTensorMap(&maps.residual);
  GridDependencyWait();
  uint32_t parity = 0;
  const WideWalk<Config> walk(p);
  for (int t = 0; t < walk.count; ++t) {
    const WideOutput output = walk.OutputAt(t);
    if (output.begin == output.end) continue;
    const int block = (output.tile.row_pair * Config::kClusterCtas + rank) * Config::kRowBlocks;
    const int tile_token = output.tile.token_tile * Config::kTokens;
    for (int w = 0; w < Config::kWarpgroups; ++w) {
      const int row = (block + Config::RowBlock(w)) * kWideOutRows<Epilogue>;
      const int token = tile_token + Config::FirstToken(w);
      if constexpr (kAddsResidual<Epilogue>) {
        MbarrierArriveExpectTx(shared.out_ready(w), (output.end - output.begin) * kChunkBytes);
        for (int c = output.begin; c < output.end; ++c)
          TmaLoad2D(shared.out(w) + c * kChunkBytes, &maps.residual, row,
                    token + c * kWideOutTokens, shared.out_ready(w), kEvictFirst);
      } else {
        MbarrierArrive(shared.out_ready(w));
      }
    }
    // In halves: the first leaves while the second is scaled.
    for (int half = 0; half < 2; ++half) {
      const int begin = half == 0 ? output.begin : output.middle();
      const int end = half == 0 ? output.middle() : output.end;
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        const int row = (block + Config::RowBlock(w)) * kWideOutRows<Epilogue>;
        const int token = tile_token + Config::FirstToken(w);
        MbarrierWaitAsleep(shared.out_full(half, w), parity);
        for (int c = begin; c < end; ++c)
          TmaStore2D(&maps.outputs, row, token + c * kWideOutTokens,
                     shared.out(w) + c * kChunkBytes);
        BulkGroupCommit();
      }
    }
    BulkGroupsWaitRead();
    parity ^= 1;
  }
}

template <class Config, class Epilogue>
struct WideConsumer {
  static constexpr int kTokens = Config::kTokens;
  static constexpr int kSums = Config::kFinishedTokens / 2;  // of a thread, that it finishes
  static constexpr int kChunkLoads = kWideOutTokens / 8;     // of these, four at a time
  const GemmI4F8Params& p;
  WideShared<Config> shared;
  int warpgroup;
  int thread;              // of the warpgroup
  uint32_t codes_address;  // of this thread's codes in stage 0
  uint32_t scales_address;
  uint32_t empty_address;  // of what this lane releases
  bool releases;
  uint32_t sixty_fours;
  uint64_t x_descriptor;
  // Stages are known to the compiler but for where the unit's first one is: addresses worked out at
  // every step would be a tenth of its instructions, and instructions are what binds.
  struct Unit {
    int first;  // stage
    uint32_t parity;
    __device__ Unit Next() const {
      if (Config::kStages == kWideUnitSteps) return {0, parity ^ 1};
      return {first ^ kWideUnitSteps, parity ^ static_cast<uint32_t>(first / kWideUnitSteps)};
    }
  };
  Unit unit{0, 0};
  uint32_t out_parity = 0;
  bool x_ready = false, w_ready = false;  // what a first look at the barriers said

  // Where tokens' addresses depend on it, as the compiler can see that a warp has one: they then
  // stay in uniform registers, where products read them.
  static __device__ int Warpgroup() {
    const int warpgroup = static_cast<int>(threadIdx.x / 128);
    return Config::kGroups == 1 ? warpgroup : __shfl_sync(0xFFFFFFFFu, warpgroup, 0);
  }
  __device__ WideConsumer(const GemmI4F8Params& params, WideShared<Config> s)
      : p(params), shared(s), warpgroup(Warpgroup()), thread(threadIdx.x % 128) {
    const int warp = thread / 32, lane = thread % 32;
    x_descriptor =
        DescriptorSwizzle128(shared.x(0) + Config::Group(warpgroup) * Config::kXGroupBytes);
    const uint8_t* tile = shared.w(0) + warpgroup * kTileBytes;
    codes_address = SharedAddress(tile + thread * 16);
    scales_address = SharedAddress(tile + kTileCodeBytes + 4 * (8 * warp + lane / 4));
    // Tokens are free in both CTAs once both CTAs' consumers have said so: they came from both.
    const bool tokens = lane < Config::kClusterCtas;
    releases = lane <= Config::kClusterCtas;
    empty_address = ClusterAddress(shared.x_empty(tokens ? 0 : 2 * Config::kStages),
                                   tokens ? lane : ClusterRank());
    asm volatile("" : "+r"(codes_address), "+r"(scales_address), "+r"(empty_address));
    sixty_fours = OpaqueSixtyFours(codes_address);
  }

  struct Raw {
    CodeWords codes;
    uint32_t scale_zeros;
  };
  // Step `step` of the unit, which may be of the one after.
  struct Place {
    int stage;
    uint32_t parity;
  };
  template <int step>
  __device__ Place PlaceOf() const {
    const Unit of = step < kWideUnitSteps ? unit : unit.Next();
    return {of.first + step % kWideUnitSteps, of.parity};
  }
  __device__ Raw LoadRaw(const Place& at) const {
    if (!w_ready) MbarrierWait(shared.w_full(at.stage), at.parity);
    const uint32_t codes = codes_address + at.stage * Config::kWBytes;
    const uint4 a = LoadShared128(codes), b = LoadShared128(codes + kTileCodeBytes / 2);
    return {{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}},
            LoadShared32(scales_address + at.stage * Config::kWBytes)};
  }
  // The operands of `at`, the step before `after`. Meanwhile the barriers of what comes next are
  // looked at: the answers are here when the operands are.
  __device__ void Convert(const Raw& raw, const Place& at, const Place& after, uint32_t (&a)[16]) {
    w_ready = MbarrierTestWait(shared.w_full(after.stage), after.parity);
    x_ready = MbarrierTestWait(shared.x_full(at.stage), at.parity);
    TableOperands(raw.codes, MakeHalfScales(raw.scale_zeros), sixty_fours, a);
    PinRegisters(a);
  }
  // The tokens of a stage whose products have retired, and the weights of the one after.
  __device__ void Release(int stage) const {
    if (releases) MbarrierArriveCluster(empty_address + stage * 8);
  }
  __device__ int LastStageBefore() const {
    return Config::kStages == kWideUnitSteps ? Config::kStages - 1
                                             : (unit.first ^ kWideUnitSteps) + kWideUnitSteps - 1;
  }

  // Starts the products of `now` and makes `then` while they run. `then` was the operand of the
  // products before: it may be written once these have retired. Codes are read only now: read
  // earlier, the compiler would convert them between the products.
  template <int step>
  __device__ void Step(float (&acc)[kTokens / 2], uint32_t (&now)[16], uint32_t (&then)[16],
                       bool first) {
    const Place at = PlaceOf<step>(), next = PlaceOf<step + 1>(), after = PlaceOf<step + 2>();
    if (!x_ready) MbarrierWait(shared.x_full(at.stage), at.parity);
    WgmmaFence();
    MultiplyGroup<kTokens>(acc, now, x_descriptor + at.stage * (Config::kXBytes >> 4), !first);
    WgmmaCommit();
    const Raw raw = LoadRaw(next);
    WgmmaWait<1>();
    if (!first) Release(step == 0 ? LastStageBefore() : at.stage - 1);
    Convert(raw, next, after, then);
  }

  // Units [begin, end) of a tile; the last products are left running.
  __device__ __forceinline__ void Multiply(float (&acc)[kTokens / 2], uint32_t (&even)[16],
                                           uint32_t (&odd)[16], int begin, int end) {
#pragma unroll 1
    for (int g = begin; g < end; ++g) {
      Step<0>(acc, even, odd, g == begin);
      Step<1>(acc, odd, even, false);
      Step<2>(acc, even, odd, false);
      Step<3>(acc, odd, even, false);
      unit = unit.Next();
    }
  }
  __device__ __forceinline__ void EndMultiply(float (&acc)[kTokens / 2]) {
    WgmmaWait<0>();
    PinRegisters(acc);
    Release(LastStageBefore());
  }

  // The sums of the tokens that this warpgroup finishes: its own and what the other has of them, to
  // which it gives its sums of the others. Two terms: their order does not matter.
  __device__ void Share(const float (&acc)[kTokens / 2], float (&sums)[kSums]) const {
    constexpr int kBarrier = 1 + Config::kWarpgroups;
    const bool first = warpgroup == 0;
    float4* to = shared.given(warpgroup) + thread;
    const float4* from = shared.given(warpgroup ^ 1) + thread;
    NamedBarrierSync(kBarrier, Config::kConsumerThreads);  // what was given last has been read
#pragma unroll
    for (int i = 0; i < kSums; i += 4)
      to[i / 4 * 128] = {first ? acc[kSums + i] : acc[i], first ? acc[kSums + i + 1] : acc[i + 1],
                         first ? acc[kSums + i + 2] : acc[i + 2],
                         first ? acc[kSums + i + 3] : acc[i + 3]};
    NamedBarrierSync(kBarrier, Config::kConsumerThreads);
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
      const float4 v = from[i / 4 * 128];
      sums[i] = (first ? acc[i] : acc[kSums + i]) + v.x;
      sums[i + 1] = (first ? acc[i + 1] : acc[kSums + i + 1]) + v.y;
      sums[i + 2] = (first ? acc[i + 2] : acc[kSums + i + 2]) + v.z;
      sums[i + 3] = (first ? acc[i + 3] : acc[kSums + i + 3]) + v.w;
    }
  }

  // Sums of cluster c's part of a tile, in the order of registers.
  __device__ float4* Partial(int c, int rank) const {
    const int index = (c * Config::kClusterCtas + rank) * Config::kWarpgroups + warpgroup;
    return reinterpret_cast<float4*>(p.partials) + int64_t{index} * (kSums / 4 * 128) + thread;
  }
  // How many parts of this cluster's cut tile are there.
  __device__ uint32_t* Count(const WideWalk<Config>& walk, int rank) const {
    return p.counts + (walk.cut_tile() * Config::kClusterCtas + rank) * Config::kWarpgroups +
           warpgroup;
  }
  // Chunks that other clusters finish.
  __device__ void HandOver(const float (&acc)[kSums], const WideWalk<Config>& walk,
                           const WideOutput& mine, int rank) const {
    float4* to = Partial(walk.cluster, rank);
#pragma unroll
    for (int i = 0; i < kSums / 4; ++i)
      if (i / kChunkLoads < mine.begin || i / kChunkLoads >= mine.end)
        to[i * 128] = {acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]};
    NamedBarrierSync(1 + warpgroup, 128);  // the release is of what the others wrote, too
    if (thread == 0) AddRelease(Count(walk, rank), 1);
  }
  // A chunk of another cluster's part: in the order in which they are added, chunk by chunk.
  struct PartPlace {
    int chunk, cluster;
  };
  __device__ PartPlace FirstPart(const WideWalk<Config>& walk, int chunk) const {
    return {chunk, walk.cluster - walk.place() + (walk.place() == 0 ? 1 : 0)};
  }
  __device__ PartPlace NextPart(const WideWalk<Config>& walk, const PartPlace& at) const {
    const int next = at.cluster + (at.cluster + 1 == walk.cluster ? 2 : 1);
    if (next < walk.cluster - walk.place() + walk.parts) return {at.chunk, next};
    return FirstPart(walk, at.chunk + 1);
  }

  __device__ WideEpilogue<Epilogue> MakeEpilogue(const WideTile& tile, int rank) const {
    const int block = (tile.row_pair * Config::kClusterCtas + rank) * Config::kRowBlocks;
    return {p, shared.out(warpgroup), shared.scales() + Config::FirstToken(warpgroup), thread,
            block + Config::RowBlock(warpgroup)};
  }
  __device__ void WaitForBuffers() const {
    MbarrierWait(shared.scales_full(), out_parity);
    MbarrierWait(shared.out_ready(warpgroup), out_parity);
  }
  // Half of the outputs are in shared memory: whoever copies them may.
  __device__ void HalfStored(int half) const {
    FenceProxyAsync();
    __syncwarp();
    if (thread % 32 == 0) MbarrierArrive(shared.out_full(half, warpgroup));
  }
  // The second half, too, and the token scales may go.
  __device__ void OutputsStored() {
    HalfStored(1);
    if (thread % 32 == 0) MbarrierArrive(shared.scales_empty());
    out_parity ^= 1;
  }

  // This cluster's chunks of a cut tile, once all parts are there: their clusters run at one time.
  // The count ends as it was found, at zero: the last to add makes it wrap.
  __device__ void FinishShare(const float (&acc)[kSums], const WideWalk<Config>& walk,
                              const WideOutput& mine, const WideEpilogue<Epilogue>& epilogue,
                              int rank) {
    HandOver(acc, walk, mine, rank);
    if (mine.begin == mine.end) return;
    uint32_t* count = Count(walk, rank);
    const uint32_t parts = walk.parts;
    if (thread == 0) {
      while (LoadAcquire(count) < parts) {
      }
    }
    NamedBarrierSync(1 + warpgroup, 128);
    WaitForBuffers();
    // Two parts are always asked for: one at a time would cost the way to L2 each.
    const int others = walk.parts - 1;
    PartPlace asked = FirstPart(walk, mine.begin);
    const auto ask = [&](float4(&part)[kChunkLoads]) {
      if (asked.chunk == mine.end) return;
      const float4* from = Partial(asked.cluster, rank) + asked.chunk * kChunkLoads * 128;
#pragma unroll
      for (int i = 0; i < kChunkLoads; ++i) part[i] = __ldcg(from + i * 128);
      asked = NextPart(walk, asked);
    };
    // This cluster's sums of chunk c, then the others' in the order of K: the same on every run.
    int c = mine.begin, left = others;
    float sums[4 * kChunkLoads];
    const auto add = [&](float4(&part)[kChunkLoads]) {
#pragma unroll
      for (int i = 0; i < kSums; ++i)
        if (left == others && i / (4 * kChunkLoads) == c) sums[i % (4 * kChunkLoads)] = acc[i];
#pragma unroll
      for (int i = 0; i < kChunkLoads; ++i) {
        sums[4 * i] += part[i].x;
        sums[4 * i + 1] += part[i].y;
        sums[4 * i + 2] += part[i].z;
        sums[4 * i + 3] += part[i].w;
      }
      ask(part);
      if (--left > 0) return;
      epilogue.StoreChunk(p.out, sums, c, epilogue.Inputs(c));
      if (c + 1 == mine.middle()) HalfStored(0);
      ++c;
      left = others;
    };
    float4 even[kChunkLoads], odd[kChunkLoads];
    ask(even);
    ask(odd);
#pragma unroll 1
    while (true) {
      add(even);
      if (c == mine.end) break;
      add(odd);
      if (c == mine.end) break;
    }
    OutputsStored();
    NamedBarrierSync(1 + warpgroup, 128);
    if (thread == 0) AddWrapping(count, parts + min(parts, uint32_t{Config::kChunks}) - 1);
  }

  __device__ void Run(int rank) {
    const WideWalk<Config> walk(p);
    uint32_t even[16], odd[16];
    const Place start{0, 0};
    Convert(LoadRaw(start), start, {1, 0}, even);
    // The first weights; no tokens go with them.
    if (thread % 32 == Config::kClusterCtas)
      MbarrierArriveCluster(empty_address + (Config::kStages - 1) * 8);
    for (int t = 0; t < walk.whole; ++t) {
      float acc[kTokens / 2];
      Multiply(acc, even, odd, 0, walk.units);
      // Under the last products: which tile this is, and what the epilogue needs of memory.
      const WideEpilogue<Epilogue> epilogue = MakeEpilogue(walk.At(t).tile, rank);
      WaitForBuffers();
      EndMultiply(acc);
      const auto half_stored = [this] { HalfStored(0); };
      const auto store = [&](const float(&sums)[kSums]) {
        if (p.out == OutType::kBf16) {
          epilogue.StoreTile(OutType::kBf16, sums, half_stored);
        } else {
          epilogue.StoreTile(OutType::kF16, sums, half_stored);
        }
      };
      if constexpr (Config::kGroups > 1) {
        float sums[kSums];
        Share(acc, sums);
        store(sums);
      } else {
        store(acc);
      }
      OutputsStored();
    }
    if (walk.count == walk.whole) return;
    // A part of a tile in a loop of its own: what it takes after its products would cost the loop
    // above registers.
    const WideWork work = walk.At(walk.whole);
    float acc[kTokens / 2];
    Multiply(acc, even, odd, work.begin, work.end);
    const WideOutput mine = walk.OutputAt(walk.whole);
    const WideEpilogue<Epilogue> epilogue = MakeEpilogue(mine.tile, rank);
    EndMultiply(acc);
    if constexpr (Config::kGroups > 1) {
      float sums[kSums];
      Share(acc, sums);
      FinishShare(sums, walk, mine, epilogue, rank);
    } else {
      FinishShare(acc, walk, mine, epilogue, rank);
    }
  }
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Wide(const __grid_constant__ GemmI4F8Params p, const __grid_constant__ GemmMaps maps) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const WideShared<Config> shared{dynamic_shared};
  const int rank = static_cast<int>(ClusterRank());
  if (threadIdx.x == Config::kConsumerThreads) {
    PrefetchTensorMap(&maps.tokens);
    PrefetchTensorMap(&maps.weights);
  }
  // A warp's share each: one after another they would take a thread a microsecond.
  if (threadIdx.x % 32 == 0) {
    constexpr int kWarps = Config::kThreads / 32;
    const int warp = threadIdx.x / 32;
    for (int i = warp; i <= 2 * Config::kStages + Config::kWarpgroups; i += kWarps) {
      const int s = i % Config::kStages;
      if (i < Config::kStages) {
        MbarrierInit(shared.x_full(s), 1);
        MbarrierInit(shared.x_empty(s), Config::kClusterCtas * Config::kConsumerThreads / 32);
      } else if (i < 2 * Config::kStages) {
        MbarrierInit(shared.w_full(s), 1);
        MbarrierInit(shared.w_empty(s), Config::kConsumerThreads / 32);
      } else if (i < 2 * Config::kStages + Config::kWarpgroups) {
        const int warpgroup = i - 2 * Config::kStages;
        MbarrierInit(shared.out_ready(warpgroup), 1);
        for (int half = 0; half < 2; ++half) MbarrierInit(shared.out_full(half, warpgroup), 4);
      } else {
        MbarrierInit(shared.scales_full(), 32);
        MbarrierInit(shared.scales_empty(), Config::kConsumerThreads / 32);
      }
    }
    FenceMbarrierInit();
  }
  ClusterSync();  // barriers of both CTAs are there before either copies or arrives
  GridDependencyLaunch();
  if (threadIdx.x >= Config::kConsumerThreads) {
    RegistersDecrease<Config::kProducerRegisters>();
    const int thread = threadIdx.x - Config::kConsumerThreads;
    if (thread == 0) WideCopyTokens<Config>(p, maps.tokens, shared, rank);
    if (thread == 32) WideCopyWeights<Config>(p, maps.weights, shared, rank);
    if (thread / 32 == 2) WideCopyScales<Config>(p, shared, thread % 32);
    if (thread == 96) WideCopyOutputs<Config, Epilogue>(p, maps, shared, rank);
  } else {
    RegistersIncrease<Config::kConsumerRegisters>();
    GridDependencyWait();  // token scales and the residual are the kernel's before this one
    WideConsumer<Config, Epilogue>(p, shared).Run(rank);
  }
  __syncwarp();
  ClusterArriveRelaxed();  // no arrival reaches a CTA that has gone
  ClusterWait();
}

}  // namespace fireq::sm90
