// The GEMM where the tensor cores bind (*table*): operands E4M3((q - z) s) looked up in registers,
// one set of accumulators over all of K.
//
// Persistent clusters of two CTAs that share their tokens: each copies one half of the token tile
// to both. In a CTA, warp 0 of the last warpgroup keeps the ring of copies going, two more of its
// warps build each stage's product tables (16 bytes a row), and the consumer warpgroups convert the
// next group's codes while the tensor cores multiply the last one's. Runs of tiles follow
// WideTileAt.
#pragma once

#include <cuda.h>
#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/operand.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/ring.cuh"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <class Config>
struct WideShared {
  uint8_t* base;
  __device__ uint8_t* x(int stage) const { return base + stage * Config::kStageBytes; }
  __device__ uint8_t* w(int stage, int block) const {
    return x(stage) + Config::kXBytes + block * kTileBytes;
  }
  __device__ uint4* tables(int stage) const {
    return reinterpret_cast<uint4*>(x(stage) + Config::kXBytes + Config::kWeightBytes);
  }
  __device__ uint8_t* out(int warpgroup) const {
    return base + Config::kOutOffset + warpgroup * Config::kOutTokens * Config::kOutPitch;
  }
  __device__ Mbarrier* full(int stage) const {
    return reinterpret_cast<Mbarrier*>(base + Config::kBarrierOffset) + stage;
  }
  __device__ Mbarrier* empty(int stage) const { return full(stage) + Config::kStages; }
  __device__ Mbarrier* table_ready(int stage) const { return full(stage) + 2 * Config::kStages; }
};

// Copies: all weights of this CTA's rows, half of the cluster's tokens.
template <class Config>
__device__ __forceinline__ void WideCopies(const GemmI4F8Params& p, const CUtensorMap& w_map,
                                           const CUtensorMap& x_map,
                                           const WideShared<Config>& shared, int rank) {
  constexpr int kHalf = Config::kTokens / Config::kClusterCtas;
  const int row_pairs = CeilDiv(p.super_blocks, Config::kClusterCtas);
  const int token_tiles = CeilDiv(p.m, Config::kTokens);
  const int clusters = gridDim.x / Config::kClusterCtas;
  RingPlace<Config::kStages> at;
  GridDependencyWait();
  for (int t = blockIdx.x / Config::kClusterCtas; t < p.tiles; t += clusters) {
    const WideTile tile = WideTileAt(t, row_pairs, token_tiles);
    const int super_block = tile.row_pair * Config::kClusterCtas + rank;
    const int token = tile.token_tile * Config::kTokens + rank * kHalf;
    for (int g = 0; g < p.groups; ++g, at.Next()) {
      MbarrierWait(shared.empty(at.stage), at.parity ^ 1);
      MbarrierArriveExpectTx(shared.full(at.stage), Config::kXBytes + Config::kWeightBytes);
      TmaLoad2DMulticast(shared.x(at.stage) + rank * kHalf * kGroup, &x_map, g * kGroup, token,
                         shared.full(at.stage), (1 << Config::kClusterCtas) - 1, kEvictLast);
      // Rows past the weight's end arrive as zeros.
      TmaLoad4D(shared.w(at.stage, 0), &w_map, 0, 0, g, super_block * Config::kWarpgroups,
                shared.full(at.stage), kEvictLast);
    }
  }
}

// Product tables of the stages as they arrive. A row takes a hundred dependent instructions, so
// each of three warps takes every third stage, four rows a lane.
template <class Config>
__device__ __forceinline__ void WideTables(const GemmI4F8Params& p,
                                           const WideShared<Config>& shared, int warp, int lane) {
  const int clusters = gridDim.x / Config::kClusterCtas;
  const int first = blockIdx.x / Config::kClusterCtas;
  const int steps = (p.tiles - first + clusters - 1) / clusters * p.groups;
  RingPlace<Config::kStages> at;
  for (int i = 0; i < steps; ++i, at.Next()) {
    if (i % Config::kTableWarps != warp) continue;
    MbarrierWait(shared.full(at.stage), at.parity);
#pragma unroll
    for (int row = lane; row < Config::kRows; row += 32) {
      const uint16_t scale_zero = *reinterpret_cast<const uint16_t*>(
          shared.w(at.stage, row / kTileRows) + TileScaleByte(row % kTileRows));
      shared.tables(at.stage)[row] = LookUpProductTable(scale_zero & 0xFF, scale_zero >> 8);
    }
    MbarrierArrive(shared.table_ready(at.stage));
  }
}

template <class Config, class Epilogue>
struct WideConsumer {
  static constexpr int kTokens = Config::kTokens;
  const GemmI4F8Params& p;
  WideShared<Config> shared;
  int warpgroup;
  int thread;  // of the warpgroup
  RingPlace<Config::kStages> at;
  int lane() const { return thread % 32; }

  // Codes and tables of the stage at hand, and operands from them. Loading comes a wait earlier
  // than converting, so that the latency of shared memory is not on the way from one group to the
  // next.
  struct Raw {
    CodeWords codes;
    ProductTable tables[2];
  };
  __device__ Raw LoadRaw() const {
    MbarrierWait(shared.full(at.stage), at.parity);
    MbarrierWait(shared.table_ready(at.stage), at.parity);
    const CodeWords codes = LoadCodes(shared.w(at.stage, warpgroup), thread);
    const uint4* rows =
        shared.tables(at.stage) + warpgroup * kTileRows + 16 * (thread / 32) + thread % 32 / 4;
    const uint4 t0 = LoadShared128(rows), t1 = LoadShared128(rows + 8);
    return {codes, {{{t0.x, t0.y}, {t0.z, t0.w}}, {{t1.x, t1.y}, {t1.z, t1.w}}}};
  }
  __device__ static void Convert(const Raw& raw, uint32_t (&a)[16]) {
    TableOperands(raw.codes, raw.tables, a);
    PinRegisters(a);
  }
  // The stage is free in both CTAs once both CTAs' consumers have said so: its tokens came from
  // both.
  __device__ void Release(int stage) const {
    if (thread % 32 < Config::kClusterCtas) MbarrierArriveCluster(shared.empty(stage), thread % 32);
  }
  __device__ void Multiply(float (&acc)[kTokens / 2], uint32_t (&a)[16], int stage,
                           int accumulate) const {
    WgmmaFence();
    MultiplyGroup<kTokens>(acc, a, DescriptorSwizzle128(shared.x(stage)), accumulate);
    WgmmaCommit();
  }

  // Operands of the next group are made while the last group multiplies: two sets of registers, and
  // a set is rewritten only after the wait that retires its reader.
  __device__ void Accumulate(float (&acc)[kTokens / 2]) {
    uint32_t even[16], odd[16];
    Raw raw = LoadRaw();
    Convert(raw, even);
    int previous = -1;
    for (int g = 0; g + 1 < p.groups; g += 2) {
      const int first = at.stage;
      Multiply(acc, even, first, g);
      at.Next();
      raw = LoadRaw();
      WgmmaWait<1>();
      if (previous >= 0) Release(previous);
      Convert(raw, odd);
      const int second = at.stage;
      Multiply(acc, odd, second, 1);
      at.Next();
      const bool more = g + 2 < p.groups;
      if (more) raw = LoadRaw();
      WgmmaWait<1>();
      Release(first);
      previous = second;
      if (more) Convert(raw, even);
    }
    if (p.groups % 2 == 1) {
      const int last = at.stage;
      Multiply(acc, even, last, p.groups > 1);
      at.Next();
      WgmmaWait<0>();
      Release(last);
    }
    WgmmaWait<0>();
    PinRegisters(acc);
    if (previous >= 0) Release(previous);
  }

  // Scaled sums of packed rows (row, row + 8) and tokens (j-th pair of this lane).
  struct Quad {
    float v[4];  // [row half][token]
  };
  __device__ Quad Scaled(const float (&acc)[kTokens / 2], int j, int token, const float (&scale)[2],
                         const float (&bias)[2]) const {
    Quad out;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = token + 8 * j + i;
      const float x_scale = t < p.m ? __ldg(p.x_scales + t) : 0.0f;
#pragma unroll
      for (int h = 0; h < 2; ++h)
        out.v[2 * h + i] = acc[4 * j + 2 * h + i] * (x_scale * scale[h]) + bias[h];
    }
    return out;
  }

  // Tokens 32 c .. 32 c + 31 of the tile to shared memory, transposed: [token][output].
  __device__ void StageChunk(const float (&acc)[kTokens / 2], int c, int token,
                             const float (&scale)[2], const float (&bias)[2]) const {
    const int warp = thread / 32, l = thread % 32;
    uint8_t* out = shared.out(warpgroup);
    if constexpr (Epilogue::kRowsPerOutput == 2) {
      uint32_t packed[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Quad q = Scaled(acc, 4 * c + j, token, scale, bias);
        packed[j] = PackOut(p.out, Silu(q.v[0]) * q.v[2], Silu(q.v[1]) * q.v[3]);
      }
      StoreMatrix4Trans(out + l * Config::kOutPitch + warp * 16, packed[0], packed[1], packed[2],
                        packed[3]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const Quad a = Scaled(acc, 4 * c + j, token, scale, bias);
        const Quad b = Scaled(acc, 4 * c + j + 1, token, scale, bias);
        StoreMatrix4Trans(
            out + (8 * j + l % 8 + l / 16 * 8) * Config::kOutPitch + warp * 32 + l / 8 % 2 * 16,
            PackOut(p.out, a.v[0], a.v[1]), PackOut(p.out, a.v[2], a.v[3]),
            PackOut(p.out, b.v[0], b.v[1]), PackOut(p.out, b.v[2], b.v[3]));
      }
    }
  }

  // The staged chunk to memory, 16 bytes a thread and turn.
  __device__ void WriteChunk(int first_token, int out_row) const {
    constexpr int kOutputs = kTileRows / Epilogue::kRowsPerOutput;
    constexpr int kPieces = kOutputs / 8;
#pragma unroll
    for (int i = thread; i < Config::kOutTokens * kPieces; i += 128) {
      const int token = first_token + i / kPieces;
      if (token >= p.m) continue;
      uint4 v =
          LoadShared128(shared.out(warpgroup) + i / kPieces * Config::kOutPitch + i % kPieces * 16);
      const int64_t to = token * p.ldy + out_row + i % kPieces * 8;
      if constexpr (requires { Epilogue::Add(OutType::kBf16, 0u, 0u); }) {
        const uint4 r = *reinterpret_cast<const uint4*>(p.residual + to);
        v = {Epilogue::Add(p.out, v.x, r.x), Epilogue::Add(p.out, v.y, r.y),
             Epilogue::Add(p.out, v.z, r.z), Epilogue::Add(p.out, v.w, r.w)};
      }
      *reinterpret_cast<uint4*>(p.y + to) = v;
    }
  }

  __device__ void Store(const float (&acc)[kTokens / 2], int block, int token_tile) const {
    const bool stored = block < p.row_blocks;
    const int row = min(block, p.row_blocks - 1) * kTileRows + 16 * (thread / 32) + thread % 32 / 4;
    const float scale[2] = {__ldg(p.row_scales + row), __ldg(p.row_scales + row + 8)};
    float bias[2] = {0.0f, 0.0f};
    if (p.bias != nullptr) {
      bias[0] = __ldg(p.bias + row);
      bias[1] = __ldg(p.bias + row + 8);
    }
    const int first_token = token_tile * kTokens;
    const int out_row = block * kTileRows / Epilogue::kRowsPerOutput;
#pragma unroll
    for (int c = 0; c < kTokens / Config::kOutTokens; ++c) {
      if (first_token + c * Config::kOutTokens >= p.m) break;
      // The last chunk has been read -> this one may be written; written -> read.
      NamedBarrierSync(1 + warpgroup, 128);
      StageChunk(acc, c, first_token + 2 * (thread % 4), scale, bias);
      NamedBarrierSync(1 + warpgroup, 128);
      if (stored) WriteChunk(first_token + c * Config::kOutTokens, out_row);
    }
  }

  __device__ void Run(int rank) {
    const int row_pairs = CeilDiv(p.super_blocks, Config::kClusterCtas);
    const int token_tiles = CeilDiv(p.m, kTokens);
    const int clusters = gridDim.x / Config::kClusterCtas;
    for (int t = blockIdx.x / Config::kClusterCtas; t < p.tiles; t += clusters) {
      const WideTile tile = WideTileAt(t, row_pairs, token_tiles);
      const int block =
          (tile.row_pair * Config::kClusterCtas + rank) * Config::kWarpgroups + warpgroup;
      float acc[kTokens / 2];
      Accumulate(acc);
      Store(acc, block, tile.token_tile);
    }
  }
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Wide(const __grid_constant__ GemmI4F8Params p,
                 const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const WideShared<Config> shared{dynamic_shared};
  const int rank = static_cast<int>(ClusterRank());
  if (threadIdx.x == 0) {
    for (int s = 0; s < Config::kStages; ++s) {
      MbarrierInit(shared.full(s), 1);
      MbarrierInit(shared.empty(s), Config::kClusterCtas * Config::kConsumerThreads / 32);
      MbarrierInit(shared.table_ready(s), 32);
    }
    FenceMbarrierInit();
  }
  ClusterSync();  // barriers of both CTAs are there before either copies or arrives
  GridDependencyLaunch();
  if (threadIdx.x >= Config::kConsumerThreads) {
    RegistersDecrease<Config::kProducerRegisters>();
    const int thread = threadIdx.x - Config::kConsumerThreads;
    if (thread == 0) {
      WideCopies<Config>(p, w_map, x_map, shared, rank);
    } else if (thread >= 32) {
      WideTables<Config>(p, shared, thread / 32 - 1, thread % 32);
    }
  } else {
    RegistersIncrease<Config::kConsumerRegisters>();
    GridDependencyWait();  // token scales and the residual are the kernel's before this one
    WideConsumer<Config, Epilogue>{
        p, shared, static_cast<int>(threadIdx.x / 128), static_cast<int>(threadIdx.x % 128), {}}
        .Run(rank);
  }
  __syncwarp();
  ClusterArriveRelaxed();  // no arrival reaches a CTA that has gone
  ClusterWait();
}

}  // namespace fireq::sm90
