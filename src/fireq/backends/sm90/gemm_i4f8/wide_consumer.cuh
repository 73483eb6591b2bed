// The wide kernel's consumer warpgroups: codes to operands, products, and what becomes of the sums.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/operand.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_parts.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_shared.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_walk.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ring.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

// kTokens: of the tile, that the warpgroup multiplies.
template <class Config, class Epilogue, int kTokens = Config::kTokens>
struct WideConsumer {
  static constexpr int kUnitSteps = Config::kUnitSteps;
  static constexpr int kSums = kTokens / Config::kGroups / 2;  // of a thread, that it finishes
  static constexpr int kChunkSums = kWideOutTokens / 2;
  static constexpr int kChunkLoads = kChunkSums / kPartSums;
  const GemmI4F8Params& p;
  WideShared<Config> shared;
  int warpgroup;
  int thread;              // of the warpgroup
  uint32_t codes_address;  // of this thread's codes in stage 0
  uint32_t scales_address;
  uint32_t empty_address;  // of what this lane releases
  bool releases;
  uint32_t opaque_sixty_four;
  uint64_t x_descriptor;
  // Stages are known to the compiler but for where the unit's first one is: addresses worked out at
  // every step would be a tenth of its instructions, and instructions are what binds.
  struct Unit {
    int first;  // stage
    uint32_t parity;
    __device__ Unit Next() const {
      if constexpr (Config::kStages == kUnitSteps) return {0, parity ^ 1};
      if constexpr (Config::kStages == 2 * kUnitSteps)
        return {first ^ kUnitSteps, parity ^ static_cast<uint32_t>(first / kUnitSteps)};
      const bool wraps = first + kUnitSteps >= Config::kStages;
      return {first + kUnitSteps - (wraps ? Config::kStages : 0),
              parity ^ static_cast<uint32_t>(wraps)};
    }
  };
  using Ring = RingPlace<Config::kStages>;
  Unit unit{0, 0};
  uint32_t out_parity = 0;
  bool x_ready = false, w_ready = false;  // what a first look at the barriers said

  // Where tokens' addresses depend on it, as the compiler can see that a warp has one: they then
  // stay in uniform registers, where products read them.
  static __device__ int Warpgroup() {
    const int warpgroup = static_cast<int>(threadIdx.x / 128);
    return Config::kGroups == 1 ? warpgroup : __shfl_sync(0xFFFFFFFFu, warpgroup, 0);
  }
  __device__ WideConsumer(const GemmI4F8Params& params, WideShared<Config> s, int rank)
      : p(params), shared(s), warpgroup(Warpgroup()), thread(threadIdx.x % 128) {
    const int warp = thread / 32, lane = thread % 32;
    x_descriptor =
        DescriptorSwizzle128(shared.x(0) + Config::Group(warpgroup) * Config::kXGroupBytes);
    if constexpr (kTokens < Config::kTokens) {
      // As DescriptorSwizzle128 has addresses. The compiler sees one rank a warp, as above.
      x_descriptor += __shfl_sync(0xFFFFFFFFu, rank, 0) * (kTokens * kGroup >> 4);
    }
    const int slot = Config::kSharesBlock ? Config::RowBlock(warpgroup, rank) : warpgroup;
    const uint8_t* tile = shared.w(0) + slot * kTileBytes;
    codes_address = SharedAddress(tile + thread * 16);
    scales_address = SharedAddress(tile + kTileCodeBytes + 4 * (8 * warp + lane / 4));
    // Tokens are free in both CTAs once both CTAs' consumers have said so: they came from both.
    const bool tokens = lane < Config::kClusterCtas;
    releases = lane <= Config::kClusterCtas;
    const Mbarrier* empty = shared.x_empty(tokens ? 0 : 2 * Config::kStages);
    if constexpr (Config::kClusterCtas > 1) {
      empty_address = ClusterAddress(empty, tokens ? lane : ClusterRank());
    } else {
      empty_address = SharedAddress(empty);
    }
    asm volatile("" : "+r"(codes_address), "+r"(scales_address), "+r"(empty_address));
    opaque_sixty_four = OpaqueSixtyFour(codes_address);
    asm volatile("" : "+r"(opaque_sixty_four));
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
    const Unit of = step < kUnitSteps ? unit : unit.Next();
    const int stage = of.first + step % kUnitSteps;
    if constexpr (Config::kStages % kUnitSteps != 0)
      if (stage >= Config::kStages) return {stage - Config::kStages, of.parity ^ 1};
    return {stage, of.parity};
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
  __device__ void Convert(const Raw& raw, uint32_t sixty_four, const Place& at, const Place& after,
                          uint32_t (&a)[16]) {
    w_ready = MbarrierTestWait(shared.w_full(after.stage), after.parity);
    x_ready = MbarrierTestWait(shared.x_full(at.stage), at.parity);
    TableOperands(raw.codes, MakeHalfScales(raw.scale_zeros), sixty_four, a);
    PinRegisters(a);
  }
  // At what this lane releases of a stage.
  __device__ __forceinline__ void Arrive(int stage) const {
    if constexpr (Config::kClusterCtas > 1) {
      MbarrierArriveCluster(empty_address + stage * 8);
    } else {
      MbarrierArrive(empty_address + stage * 8);
    }
  }
  // The tokens of a stage whose products have retired, and the weights of the one after.
  __device__ void Release(int stage) const {
    if (releases) Arrive(stage);
  }
  // Of a stage that brought parts, which no weights go with.
  __device__ void ReleaseTokens(int stage) const {
    __syncwarp();
    if (thread % 32 < Config::kClusterCtas) Arrive(stage);
  }
  __device__ int LastStageBefore() const {
    if constexpr (Config::kStages == kUnitSteps) return Config::kStages - 1;
    if constexpr (Config::kStages == 2 * kUnitSteps)
      return (unit.first ^ kUnitSteps) + kUnitSteps - 1;
    return unit.first == 0 ? Config::kStages - 1 : unit.first - 1;
  }

  // Starts the products of `now` and makes `then` while they run. `then` was the operand of the
  // products before: it may be written once these have retired. Its codes are asked for ahead of
  // the products, which take as long to start as shared memory to answer.
  template <int step>
  __device__ void Step(float (&acc)[kTokens / 2], uint32_t (&now)[16], uint32_t (&then)[16],
                       bool first) {
    const Place at = PlaceOf<step>(), next = PlaceOf<step + 1>(), after = PlaceOf<step + 2>();
    if (!x_ready) MbarrierWait(shared.x_full(at.stage), at.parity);
    const Raw raw = LoadRaw(next);
    WgmmaFence();
    MultiplyGroup<kTokens>(acc, now, x_descriptor + at.stage * (Config::kXBytes >> 4), !first);
    WgmmaCommit();
    const uint32_t sixty_four = SixtyFourFromNow(opaque_sixty_four);
    WgmmaWait<1>();
    if (!first) Release(step == 0 ? LastStageBefore() : PlaceOf<step - (step > 0)>().stage);
    Convert(raw, sixty_four, next, after, then);
  }

  // The first `end` units of a tile, which are all; the last products are left running.
  __device__ __forceinline__ void Multiply(float (&acc)[kTokens / 2], uint32_t (&even)[16],
                                           uint32_t (&odd)[16], int end) {
    if constexpr (Config::kOneTile) {
      // Three units go twice round the ring of three: every stage and parity is known here, too.
      unit = {0, 0};
#pragma unroll 1
      for (int g = 0;; ++g) {
        MultiplyUnit(acc, even, odd, g == 0);
        unit = {2, 0};
        if (++g == end) break;
        MultiplyUnit(acc, even, odd, false);
        unit = {1, 1};
        if (++g == end) break;
        MultiplyUnit(acc, even, odd, false);
        unit = {0, 0};
        if (g + 1 == end) break;
      }
    } else {
#pragma unroll 1
      for (int g = 0; g < end; ++g) {
        MultiplyUnit(acc, even, odd, g == 0);
        unit = unit.Next();
      }
    }
  }
  __device__ __forceinline__ void MultiplyUnit(float (&acc)[kTokens / 2], uint32_t (&even)[16],
                                               uint32_t (&odd)[16], bool first) {
    Step<0>(acc, even, odd, first);
    Step<1>(acc, odd, even, false);
    if constexpr (kUnitSteps == 4) {
      Step<2>(acc, even, odd, false);
      Step<3>(acc, odd, even, false);
    }
  }
  // `steps` of a tile, the CTA's last; the last products are left running. Returns the place behind
  // theirs.
  __device__ __forceinline__ Ring MultiplyPart(float (&acc)[kTokens / 2], uint32_t (&even)[16],
                                               uint32_t (&odd)[16], int steps) {
    static_assert(kUnitSteps == 2 * kWidePartSteps);
#pragma unroll 1
    for (int done = 0;;) {
      Step<0>(acc, even, odd, done == 0);
      Step<1>(acc, odd, even, false);
      done += kWidePartSteps;
      if (done == steps) return {unit.first + kWidePartSteps, unit.parity};
      Step<2>(acc, even, odd, false);
      Step<3>(acc, odd, even, false);
      unit = unit.Next();
      done += kWidePartSteps;
      if (done == steps) return {unit.first, unit.parity};
    }
  }
  // `stage`: of the last products.
  __device__ __forceinline__ void EndMultiply(float (&acc)[kTokens / 2], int stage) {
    WgmmaWait<0>();
    PinRegisters(acc);
    Release(stage);
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

  // Chunks that other clusters finish, in 16 bits.
  __device__ void HandOver(const float (&acc)[kSums], const WideWalk<Config>& walk,
                           const WideOutput& mine, int rank) const {
    uint4* to = WidePart<Config>(p, walk.cluster, rank, warpgroup) + thread;
#pragma unroll
    for (int i = 0; i < kSums / kPartSums; ++i)
      if (i / kChunkLoads < mine.begin || i / kChunkLoads >= mine.end) {
        const uint4 part = PackPart(acc + kPartSums * i, p.parts_a_unit);
        if constexpr (Config::kPartsByWord) {
          StoreRelaxed128(to + i * 128, Inverted(part));
        } else {
          to[i * 128] = part;
        }
      }
    if constexpr (!Config::kPartsByWord) {
      NamedBarrierSync(1 + warpgroup, 128);  // the release is of what the others wrote, too
      if (thread == 0) AddRelease(WidePartsThere<Config>(walk, rank), 1);
    }
  }

  __device__ WideEpilogue<Epilogue> MakeEpilogue(const WideTile& tile, int rank) const {
    const int block = Config::FirstBlock(tile.row_pair, rank);
    return {p, shared.out(warpgroup), shared.scales() + Config::FirstToken(warpgroup, rank), thread,
            block + Config::RowBlock(warpgroup, rank)};
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

  // Sums of chunk c. The barrier makes branches of it: selecting among all sums takes as long as a
  // part does to come.
  static __device__ __forceinline__ void Take(const float (&acc)[kSums], int c,
                                              float (&sums)[kChunkSums]) {
#pragma unroll
    for (int chunk = 0; chunk < Config::kChunks; ++chunk) {
      if (chunk != c) continue;
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kChunkSums; ++i) sums[i] = acc[kChunkSums * chunk + i];
    }
  }

  // This cluster's chunks of a cut tile: its own sums, then the others' in the order of K, the same
  // on every run. `at`: behind the tile's last step.
  __device__ void FinishShare(const float (&acc)[kSums], const WideWalk<Config>& walk,
                              const WideOutput& mine, const WideEpilogue<Epilogue>& epilogue,
                              Ring at, int rank) {
    HandOver(acc, walk, mine, rank);
    if (mine.begin == mine.end) return;
    const auto finish = [&](auto parts) {
      WaitForBuffers();
      for (int c = mine.begin; c < mine.end; ++c) {
        float sums[kChunkSums];
        Take(acc, c, sums);
        parts.AddTo(sums, c);
        epilogue.StoreChunk(p.out, sums, c, epilogue.Inputs(c));
        if (c + 1 == mine.middle()) HalfStored(0);
      }
      OutputsStored();
    };
    if constexpr (Config::kPartsByWord) {
      finish(WideWordParts<Config>(walk, mine, rank, warpgroup, thread));
    } else {
      finish(WideRingParts<Config>(walk, shared, mine, at, warpgroup, thread));
      for (int i = 1; i < walk.parts(); ++i, at.Next()) ReleaseTokens(at.stage);
    }
  }

  // What is handed over of a dealt tile: to the place of its outputs, which the copy engine brings
  // away while this goes on.
  __device__ __forceinline__ void StorePart(const float (&acc)[kSums]) {
    uint4* to = reinterpret_cast<uint4*>(shared.out(warpgroup)) + thread;
#pragma unroll
    for (int i = 0; i < kSums / kPartSums; ++i) {
      to[i * 128] = PackPart(acc + kPartSums * i, p.parts_a_unit);
      if (2 * (i + 1) == kSums / kPartSums) HalfStored(0);
    }
    OutputsStored();
  }
  // What others have of the tile at hand, the CTA's last, in the order of K.
  __device__ __forceinline__ void AddParts(float (&acc)[kSums],
                                           const WideWalk<Config>& walk) const {
    Ring at{unit.first, unit.parity};
    walk.ForParts([&](int) {
#pragma unroll
      for (int w = 0; w < Config::kWarpgroups; ++w, at.Next()) {
        MbarrierWait(shared.x_full(at.stage), at.parity);  // the other's, too: not free before
        if (w == warpgroup) {
          const uint32_t from = SharedAddress(shared.x(at.stage)) + thread * 16;
#pragma unroll
          for (int i = 0; i < kSums / kPartSums; ++i)
            AddPart(acc + kPartSums * i, LoadShared128(from + i * (128 * 16)), p.part_unit);
        }
        ReleaseTokens(at.stage);
      }
    });
  }

  // How many tiles the main loop has.
  static __device__ int Tiles(const WideWalk<Config>& walk) {
    if constexpr (Config::kDeals) {
      return walk.count;
    } else {
      return walk.whole;
    }
  }
  __device__ void Run(int rank) {
    const WideWalk<Config> walk(p);
    uint32_t even[16], odd[16];
    const Place start{0, 0};
    Convert(LoadRaw(start), SixtyFourFromNow(opaque_sixty_four), start, {1, 0}, even);
    // The first weights; no tokens go with them.
    if (thread % 32 == Config::kClusterCtas) Arrive(Config::kStages - 1);
    const int tiles = Config::kOneTile ? 1 : Tiles(walk);
    for (int t = 0; t < tiles; ++t) {
      float acc[kTokens / 2];
      if constexpr (Config::kDeals) {
        Multiply(acc, even, odd, walk.UnitsAt(t));
        if (walk.HandsOver(t)) {
          WaitForBuffers();
          EndMultiply(acc, LastStageBefore());
          StorePart(acc);
          continue;
        }
      } else {
        Multiply(acc, even, odd, p.units.value);
      }
      // Under the last products: which tile this is, and what the epilogue needs of memory.
      const WideEpilogue<Epilogue> epilogue = MakeEpilogue(walk.At(t).tile, rank);
      if constexpr (!Config::kOneTile) WaitForBuffers();
      EndMultiply(acc, LastStageBefore());
      if constexpr (Config::kDeals) {
        if (walk.FinishesParts(t)) AddParts(acc, walk);
      }
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
        if constexpr (Config::kOneTile) {
          if (thread % 32 == 0) MbarrierArrive(shared.tokens_read());
        }
        Share(acc, sums);
        if constexpr (Config::kOneTile) WaitForBuffers();
        store(sums);
      } else {
        store(acc);
      }
      OutputsStored();
    }
    if constexpr (Config::kCuts)
      if (walk.count > walk.whole) RunPart(walk, even, odd, rank);
  }

  // A part of a tile, in a loop of its own: what it takes after its products would cost the loop
  // of whole tiles registers.
  __device__ __forceinline__ void RunPart(const WideWalk<Config>& walk, uint32_t (&even)[16],
                                          uint32_t (&odd)[16], int rank) {
    const WideWork work = walk.At(walk.whole);
    float acc[kTokens / 2];
    const Ring at = MultiplyPart(acc, even, odd, work.end - work.begin);
    const WideOutput mine = walk.OutputAt(walk.whole);
    const WideEpilogue<Epilogue> epilogue = MakeEpilogue(mine.tile, rank);
    EndMultiply(acc, at.stage == 0 ? Config::kStages - 1 : at.stage - 1);
    if constexpr (Config::kGroups > 1) {
      float sums[kSums];
      Share(acc, sums);
      FinishShare(sums, walk, mine, epilogue, at, rank);
    } else {
      FinishShare(acc, walk, mine, epilogue, at, rank);
    }
  }
};

}  // namespace fireq::sm90
