// A few tokens against many rows: every CTA has its own rows of the weight, all tokens and two
// warps that keep copies going; two warpgroups multiply, tokens as the rows of wgmma's A.
#pragma once

#include <cmath>

#include "fireq/backends/sm90/gemm_bf16/config.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ring.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"
#include "fireq/backends/sm90/ptx/wgmma_bf16.cuh"
#include "fireq/backends/sm90/sample_logits/logit_rank.cuh"

namespace fireq::sm90 {

template <class Config>
struct GemmBf16Shared {
  uint8_t* base;  // 1024-byte aligned: the 128-byte swizzle's atom
  __device__ uint8_t* x(int stage) const { return base + stage * Config::kXBytes; }
  __device__ uint8_t* w(int stage) const { return x(Config::kXStages) + stage * Config::kWBytes; }
  __device__ Mbarrier* x_full(int stage) const {
    return reinterpret_cast<Mbarrier*>(w(Config::kWStages)) + stage;
  }
  __device__ Mbarrier* x_empty(int stage) const { return x_full(Config::kXStages + stage); }
  __device__ Mbarrier* w_full(int stage) const { return x_full(2 * Config::kXStages + stage); }
  __device__ Mbarrier* w_empty(int stage) const { return w_full(Config::kWStages + stage); }
};

// A CTA's rows of the weight, in units.
struct GemmBf16Rows {
  int begin, end;
  __device__ explicit GemmBf16Rows(const GemmBf16Params& p) {
    const auto cta = static_cast<int>(blockIdx.x);
    begin = cta * p.units_each + min(cta, p.more);
    end = begin + p.units_each + (cta < p.more ? 1 : 0);
  }
};

// One thread: this CTA's rows of the weight, which is nobody's output.
template <class Config>
__device__ void GemmBf16CopyWeights(const GemmBf16Params& p, const CUtensorMap& map,
                                    const GemmBf16Shared<Config>& shared) {
  const GemmBf16Rows rows(p);
  RingPlace<Config::kWStages> at{0, 1};
  for (int t = 0; t < p.tiles; ++t) {
    const int unit = rows.begin + t * Config::kTileUnits;
    const int units = max(0, min(Config::kTileUnits, rows.end - unit));
    for (int s = 0; s < p.steps; ++s, at.Next()) {
      MbarrierWait(shared.w_empty(at.stage), at.parity);
      MbarrierArriveExpectTx(shared.w_full(at.stage),
                             static_cast<uint32_t>(units * Config::kUnitBytes));
      const int column = s * Config::kStepColumns;
      for (int u = 0; u < units; ++u)
        TmaLoad2D(shared.w(at.stage) + u * Config::kUnitBytes, &map, column, (unit + u) * kUnitRows,
                  shared.w_full(at.stage), kEvictFirst);
    }
  }
}

// One thread: the tokens, or this CTA's part of them to all of the cluster.
template <class Config>
__device__ void GemmBf16CopyTokens(const GemmBf16Params& p, const CUtensorMap& map,
                                   const GemmBf16Shared<Config>& shared) {
  const auto rank = static_cast<int>(ClusterRank());
  RingPlace<Config::kXStages> at{0, 1};
  const int bytes = p.x_rows * Config::kStepBytes;
  GridDependencyWait();
  for (int i = 0; i < p.tiles * p.steps; ++i, at.Next()) {
    MbarrierWait(shared.x_empty(at.stage), at.parity);
    MbarrierArriveExpectTx(shared.x_full(at.stage),
                           static_cast<uint32_t>(Config::kCluster * bytes));
    const int column = i % p.steps * Config::kStepColumns;
    if constexpr (Config::kCluster == 1) {
      TmaLoad2D(shared.x(at.stage), &map, column, 0, shared.x_full(at.stage), kEvictLast);
    } else {
      TmaLoad2DMulticast(shared.x(at.stage) + rank * bytes, &map, column, rank * p.x_rows,
                         shared.x_full(at.stage), (1 << Config::kCluster) - 1, kEvictLast);
    }
  }
}

// One warpgroup.
template <class Config>
class GemmBf16Consumer {
 public:
  __device__ GemmBf16Consumer(const GemmBf16Params& p, const GemmBf16Shared<Config>& shared)
      : p_(p),
        shared_(shared),
        warpgroup_(static_cast<int>(threadIdx.x) / 128),
        warp_(static_cast<int>(threadIdx.x) / 32 % 4),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void Run() {
    ClearUnusedTokens();
    const GemmBf16Rows rows(p_);
    for (int t = 0; t < p_.tiles; ++t) {
      const int unit = rows.begin + t * Config::kTileUnits + (SplitsTokens() ? 0 : FirstUnit());
      const int units = min(Config::kUnits, rows.end - unit);
      if (units >= Config::kUnits) {
        Tile<Config::kUnits>(unit);
      } else if (Config::kUnits > 3 && units == 3) {
        Tile<3>(unit);
      } else if (Config::kUnits > 2 && units == 2) {
        Tile<2>(unit);
      } else if (Config::kUnits > 1 && units == 1) {
        Tile<1>(unit);
      } else {
        for (int s = 0; s < p_.steps; ++s) {
          Await();
          Release(x_at_.stage, w_at_.stage);
          Next();
        }
      }
    }
    if (p_.tops != nullptr) WriteTops();
  }

 private:
  static constexpr bool SplitsTokens() { return Config::kTokenGroups == 2; }
  __device__ int FirstUnit() const { return warpgroup_ * Config::kUnits; }
  __device__ int FirstToken() const {
    return SplitsTokens() ? warpgroup_ * Config::kBlocks * Config::kBlockTokens : 0;
  }

  // Zeros where no token is ever copied: what was there before would only cost power.
  __device__ void ClearUnusedTokens() const {
    const int begin = Config::kCluster * p_.x_rows * Config::kStepBytes / 16;
    for (int s = 0; s < Config::kXStages; ++s)
      for (int i = begin + static_cast<int>(threadIdx.x); i < Config::kXBytes / 16;
           i += Config::kConsumerThreads)
        reinterpret_cast<uint4*>(shared_.x(s))[i] = uint4{0, 0, 0, 0};
    FenceProxyAsync();  // zeros written -> zeros multiplied
    NamedBarrierSync(1, Config::kConsumerThreads);
  }

  template <int kUnits>
  __device__ void Tile(int unit) {
    constexpr int kRows = kUnits * kUnitRows;
    float sums[Config::kBlocks][kRows / 2];
#pragma unroll
    for (int b = 0; b < Config::kBlocks; ++b) {
#pragma unroll
      for (float& sum : sums[b]) sum = 0.0f;
    }
    int last_x = 0, last_w = 0;
    for (int s = 0; s < p_.steps; ++s) {
      Await();
      const uint64_t x =
          DescriptorSwizzle128(shared_.x(x_at_.stage) + FirstToken() * Config::kStepBytes);
      const uint64_t w = DescriptorSwizzle128(
          shared_.w(w_at_.stage) + (SplitsTokens() ? 0 : FirstUnit() * Config::kUnitBytes));
      WgmmaFence();
#pragma unroll
      for (int c = 0; c < Config::kStepColumns / 16; ++c) {
#pragma unroll
        for (int b = 0; b < Config::kBlocks; ++b)
          WgmmaBf16<kRows>::Ss(sums[b],
                               x + b * (Config::kBlockTokens * Config::kStepBytes >> 4) + 2 * c,
                               w + 2 * c, 1);
      }
      WgmmaCommit();
      WgmmaWait<1>();
      if (s > 0) Release(last_x, last_w);
      last_x = x_at_.stage;
      last_w = w_at_.stage;
      Next();
    }
    WgmmaWait<0>();
    Release(last_x, last_w);
#pragma unroll
    for (int b = 0; b < Config::kBlocks; ++b) {
      PinRegisters(sums[b]);
      if (p_.y != nullptr) Store<kUnits>(sums[b], b, unit);
      if (p_.tops != nullptr) See<kUnits>(sums[b], b, unit);
    }
  }

  __device__ void Await() {
    MbarrierWait(shared_.w_full(w_at_.stage), w_at_.parity);
    MbarrierWait(shared_.x_full(x_at_.stage), x_at_.parity);
  }
  __device__ void Next() {
    w_at_.Next();
    x_at_.Next();
  }
  // Of this warp: the stages have been read. All CTAs of the cluster copy into that of tokens.
  __device__ void Release(int x_stage, int w_stage) {
    if (lane_ == 0) MbarrierArrive(shared_.w_empty(w_stage));
    if constexpr (Config::kCluster == 1) {
      if (lane_ == 0) MbarrierArrive(shared_.x_empty(x_stage));
    } else {
      if (lane_ < Config::kCluster)
        MbarrierArriveCluster(
            ClusterAddress(shared_.x_empty(x_stage), static_cast<uint32_t>(lane_)));
    }
  }

  // Of this lane's part of a block: its row in half h, and the first column of the tile that it
  // has.
  __device__ int Token(int block, int h) const {
    return FirstToken() + block * Config::kBlockTokens + 16 * warp_ + lane_ / 4 + 8 * h;
  }
  __device__ int Column(int unit) const { return unit * kUnitRows + 2 * (lane_ % 4); }

  template <int kUnits>
  __device__ void Store(const float (&sums)[kUnits * kUnitRows / 2], int block, int unit) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int token = Token(block, h);
      if (token >= p_.m) continue;
      float* row = p_.y + int64_t{token} * p_.n;
#pragma unroll
      for (int j = 0; j < kUnits * kUnitRows / 8; ++j) {
        const float2 pair = {sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]};
        const int at = Column(unit) + 8 * j;
        if (p_.n % 2 == 0) {
          if (at < p_.n) *reinterpret_cast<float2*>(row + at) = pair;
        } else {
          if (at < p_.n) row[at] = pair.x;
          if (at + 1 < p_.n) row[at + 1] = pair.y;
        }
      }
    }
  }

  // Keeps the first candidate: a look at the largest, and its place if it is one.
  template <int kUnits>
  __device__ void See(const float (&sums)[kUnits * kUnitRows / 2], int block, int unit) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float largest = NAN;
#pragma unroll
      for (int j = 0; j < kUnits * kUnitRows / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
          if (Column(unit) + 8 * j + i < p_.n) largest = fmaxf(largest, sums[4 * j + 2 * h + i]);
      }
      FirstLogit& first = first_[block][h];
      if (!first.IsBeatenBy(largest)) continue;
      first.logit = largest;
#pragma unroll
      for (int j = kUnits * kUnitRows / 8 - 1; j >= 0; --j) {
#pragma unroll
        for (int i = 1; i >= 0; --i)
          if (sums[4 * j + 2 * h + i] == largest) first.id = Column(unit) + 8 * j + i;
      }
    }
  }

  __device__ void WriteTops() const {
#pragma unroll
    for (int b = 0; b < Config::kBlocks; ++b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint64_t rank = first_[b][h].Rank();
        rank = max(rank, __shfl_xor_sync(0xFFFFFFFFu, rank, 1));
        rank = max(rank, __shfl_xor_sync(0xFFFFFFFFu, rank, 2));
        const int token = Token(b, h);
        if (token >= p_.m || lane_ % 4 != 0) continue;
        uint64_t* mine = p_.tops + (int64_t{token} * gridDim.x + blockIdx.x) * Config::kWarpgroups;
        mine[SplitsTokens() ? 0 : warpgroup_] = rank;
        if constexpr (SplitsTokens()) mine[1] = 0;
      }
    }
  }

  const GemmBf16Params& p_;
  const GemmBf16Shared<Config>& shared_;
  const int warpgroup_, warp_, lane_;
  RingPlace<Config::kXStages> x_at_;
  RingPlace<Config::kWStages> w_at_;
  FirstLogit first_[Config::kBlocks][2];  // of the tiles so far, a row of a block's halves each
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmBf16(const __grid_constant__ GemmBf16Params p, const __grid_constant__ GemmBf16Maps maps) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const GemmBf16Shared<Config> shared{dynamic_shared};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  constexpr int kConsumerWarps = Config::kConsumerThreads / 32;
  constexpr int kWeightWarp = kConsumerWarps, kTokenWarp = kConsumerWarps + 1;
  if (warp == kWeightWarp && ElectOne()) {
    PrefetchTensorMap(&maps.w);
    for (int s = 0; s < Config::kWStages; ++s) {
      MbarrierInit(shared.w_full(s), 1);
      MbarrierInit(shared.w_empty(s), kConsumerWarps);
    }
    FenceMbarrierInit();
  }
  if (warp == kTokenWarp && ElectOne()) {
    PrefetchTensorMap(&maps.x);
    for (int s = 0; s < Config::kXStages; ++s) {
      MbarrierInit(shared.x_full(s), 1);
      MbarrierInit(shared.x_empty(s), Config::kCluster * kConsumerWarps);
    }
    FenceMbarrierInit();
  }
  if constexpr (Config::kCluster == 1) {
    __syncthreads();  // barriers are there
  } else {
    ClusterSync();  // those of all CTAs
  }
  GridDependencyLaunch();
  if (warp >= kConsumerWarps) {
    RegistersDecrease<Config::kProducerRegisters>();
    if (ElectOne()) {
      if (warp == kWeightWarp) GemmBf16CopyWeights<Config>(p, maps.w, shared);
      if (warp == kTokenWarp) GemmBf16CopyTokens<Config>(p, maps.x, shared);
    }
    __syncwarp();
  } else {
    RegistersIncrease<Config::kConsumerRegisters>();
    GemmBf16Consumer<Config>(p, shared).Run();
  }
  if constexpr (Config::kCluster > 1) {
    // The last arrivals of other CTAs land while this one is still there.
    ClusterArriveRelaxed();
    ClusterWait();
  }
}

}  // namespace fireq::sm90
