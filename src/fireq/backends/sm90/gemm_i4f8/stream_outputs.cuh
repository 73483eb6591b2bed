// The stream kernel's shared memory, and the way from partial sums in it to outputs: what the
// warpgroups of a CTA, or the CTAs of a cluster, have of a tile is added in the order of K, scaled
// and stored.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/resident_tokens.cuh"
#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"

namespace fireq::sm90 {

// Where a CTA tile is; where there are few tokens, no division says so.
__device__ __forceinline__ int SuperBlockOf(const GemmI4F8Params& p, int tile) {
  return tile < p.super_blocks ? tile : tile % p.super_blocks;
}
template <class Config>
__device__ __forceinline__ int FirstTokenOf(const GemmI4F8Params& p, int tile) {
  return tile < p.super_blocks ? 0 : tile / p.super_blocks * Config::kTokens;
}
// How many tokens it has.
template <class Config>
__device__ __forceinline__ int TokensOf(const GemmI4F8Params& p, int tile) {
  return min(Config::kTokens, p.m - FirstTokenOf<Config>(p, tile));
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
  // What other CTAs send: of a pair's shared tile the part that rank 1 computes, made there and
  // copied to rank 0; of exchanged tiles see ExchangedSums.
  __device__ float* handover() const { return partial(false) + Config::kPartialBytes / 4; }
  __device__ Mbarrier* handed_over() const { return empty(Config::kStages); }
  __device__ Mbarrier* full(int stage) const {
    return reinterpret_cast<Mbarrier*>(base - Config::kResidentBytes + Config::kBarrierOffset) +
           stage;
  }
  __device__ Mbarrier* empty(int stage) const { return full(stage) + Config::kStages; }
  __device__ ResidentTokens<Config> resident() const { return {base - Config::kResidentBytes}; }
};

// Sums of `count` parts, each of as many warpgroups as share a tile's K, in the order of K:
// load(part, j, set) gives four neighbouring packed rows of the j-th token. The reads of `kAtOnce`
// parts are under way together.
template <class Config, int kAtOnce, int kCount, class Load>
__device__ __forceinline__ void AddParts(const Load& load, int count, float4 (&sums)[kCount]) {
  constexpr int kSets = Config::kGroupSets;
#pragma unroll
  for (float4& sum : sums) sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
  for (int from = 0; from < count; from += kAtOnce) {
    float4 v[kAtOnce][kCount][kSets];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {  // the last one again where there are fewer
      const int part = kAtOnce == 1 ? from : min(from + i, count - 1);
#pragma unroll
      for (int j = 0; j < kCount; ++j)
#pragma unroll
        for (int g = 0; g < kSets; ++g) v[i][j][g] = load(part, j, g);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (from + i >= count) break;
#pragma unroll
      for (int j = 0; j < kCount; ++j)
#pragma unroll
        for (const float4& x : v[i][j])
          sums[j] = {sums[j].x + x.x, sums[j].y + x.y, sums[j].z + x.z, sums[j].w + x.w};
    }
  }
}
// Of a cluster's parts, registers allowing.
template <class Config>
inline constexpr int kPartsAtOnce = CeilDiv(4, Config::kGroupSets);

template <class Config>
__device__ __forceinline__ int PlaceOfSum(int set, int token, int row) {
  return (set * Config::kTokens + token) * Config::kSumPitch + row;
}

// A tile's parts in this CTA, one or two.
template <class Config, int kParts>
struct LocalSums {
  const float* front;
  const float* rest = nullptr;
  template <int kCount>
  __device__ __forceinline__ void Sum(const int (&tokens)[kCount], int row,
                                      float4 (&sums)[kCount]) const {
    AddParts<Config, Config::kGroupSets == 4 ? 1 : kParts>(
        [&](int part, int j, int set) {
          return *reinterpret_cast<const float4*>((part == 0 ? front : rest) +
                                                  PlaceOfSum<Config>(set, tokens[j], row));
        },
        kParts, sums);
  }
};

// In CTAs of the cluster: the front in CTA `first`, the others in the CTAs after it.
template <class Config>
struct ClusterSums {
  const float* front;  // place in shared memory
  const float* rest;
  int first;
  int count;
  template <int kCount>
  __device__ __forceinline__ void Sum(const int (&tokens)[kCount], int row,
                                      float4 (&sums)[kCount]) const {
    AddParts<Config, kPartsAtOnce<Config>>(
        [&](int part, int j, int set) {
          return LoadCluster128(ClusterAddress(part == 0 ? front : rest, first + part) +
                                4 * PlaceOfSum<Config>(set, tokens[j], row));
        },
        count, sums);
  }
};

// Every CTA of the cluster has a part of its one tile, and gets from the others what they have of
// its share of the tokens: [sender, itself left out][set][token of the share][row].
template <class Config>
struct ExchangedSums {
  StreamShared<Config> shared;
  int rank, ranks;
  int begin, end;  // tokens

  __device__ ExchangedSums(const StreamShared<Config>& s, int r, int rs, int tokens)
      : shared(s), rank(r), ranks(rs), begin(tokens * r / rs), end(tokens * (r + 1) / rs) {}
  __device__ uint32_t bytes() const {  // of one set of one sender
    return (end - begin) * (Config::kSumPitch * 4);
  }
  __device__ float* Received(int sender, int set) const {
    const int place = (sender - (sender > rank ? 1 : 0)) * Config::kGroupSets + set;
    return shared.handover() + place * (end - begin) * Config::kSumPitch;
  }
  template <int kCount>
  __device__ __forceinline__ void Sum(const int (&tokens)[kCount], int row,
                                      float4 (&sums)[kCount]) const {
    AddParts<Config, kPartsAtOnce<Config>>(
        [&](int part, int j, int set) {
          const float* from =
              part == rank ? shared.partial(false) + PlaceOfSum<Config>(set, tokens[j], row)
                           : Received(part, set) + (tokens[j] - begin) * Config::kSumPitch + row;
          return *reinterpret_cast<const float4*>(from);
        },
        ranks, sums);
  }
};

// One thread's outputs of a share of a tile: four neighbouring ones of every few tokens, always the
// same rows. What it needs of memory is read when it is made, before there are sums to wait for.
template <class Config, class Epilogue>
struct TileOutputs {
  static constexpr bool kHalves = Epilogue::kRowsPerOutput == 2;
  static constexpr int kOutRows = Config::kRowBlocks * kTileRows / Epilogue::kRowsPerOutput;
  static constexpr int kColumns = kOutRows / 4;
  static constexpr int kItems = Config::kTokens * kColumns;
  static constexpr int kAtOnce = kItems > Config::kConsumerThreads ? 2 : 1;  // tokens
  static_assert(Config::kConsumerThreads % kColumns == 0, "a thread keeps its rows");
  const GemmI4F8Params& p;
  const float* x_scales;
  int item, end;    // of the tile's: [token][four outputs]
  int first_token;  // of the tile
  int row;          // of the tile's packed rows
  int packed_row;
  int out_row;
  float4 scale, up_scale;  // of the rows

  // Items [first, last) of a tile.
  __device__ TileOutputs(const GemmI4F8Params& params, const float* token_scales, int tile,
                         int first = 0, int last = kItems)
      : p(params), x_scales(token_scales) {
    const int super_block = SuperBlockOf(p, tile);
    first_token = FirstTokenOf<Config>(p, tile);
    item = first + static_cast<int>(threadIdx.x);
    end = min(last, (p.m - first_token) * kColumns);
    const int local = item % kColumns * 4;
    out_row = super_block * kOutRows + local;
    row = kHalves ? local / 8 * 16 + local % 8 : local;
    if (out_row >= p.row_blocks * kTileRows / Epilogue::kRowsPerOutput) end = 0;
    if (item >= end) return;
    packed_row = super_block * Config::kRowBlocks * kTileRows + row;
    const float* scales = p.row_scales + packed_row;
    scale = __ldg(reinterpret_cast<const float4*>(scales));
    if constexpr (kHalves) up_scale = __ldg(reinterpret_cast<const float4*>(scales + 8));
  }

  template <class Sums>
  __device__ __forceinline__ void Store(const Sums& sums) const {
    constexpr int kStep = Config::kConsumerThreads;
#pragma unroll 1
    for (int i = item; i < end; i += kAtOnce * kStep) {
      int token[kAtOnce];
      int64_t at[kAtOnce];
      float x_scale[kAtOnce];
      uint2 other[kAtOnce];
      float4 v[kAtOnce], up[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        token[j] = min(i + j * kStep, end - 1) / kColumns;
        at[j] = (first_token + token[j]) * p.ldy + out_row;
        x_scale[j] = x_scales[first_token + token[j]];
        other[j] = Epilogue::Read(p, at[j]);
      }
      sums.Sum(token, row, v);
      if constexpr (kHalves) sums.Sum(token, row + 8, up);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        v[j] = ScaleAndBias(p, v[j], scale, x_scale[j], packed_row);
        if constexpr (kHalves)
          v[j] =
              Epilogue::Combine(v[j], ScaleAndBias(p, up[j], up_scale, x_scale[j], packed_row + 8));
        if (i + j * kStep < end)
          *reinterpret_cast<uint2*>(p.y + at[j]) = Epilogue::Finish(p.out, v[j], other[j]);
      }
    }
  }
};

}  // namespace fireq::sm90
