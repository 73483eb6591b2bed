// The stream kernel's shared memory, and the way from partial sums in it to outputs: what the
// warpgroups of a CTA, or the CTAs of a cluster, have of a tile is added in the order of K, scaled
// and stored.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/resident_tokens.cuh"
#include "fireq/backends/sm90/gemm_i4f8/stream_config.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

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
  // By a lane of every warp, a consuming one's share each: one after another they would take a
  // thread a microsecond.
  __device__ __forceinline__ void InitEmpty(int warp) const {
    constexpr int kWarps = Config::kConsumerThreads / 32;
    for (int s = warp; s < Config::kStages; s += kWarps)
      if (warp < kWarps) MbarrierInit(empty(s), kWarps);
  }
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
  // At most one of a thread: all that it needs is few enough to be held from before its sums.
  static constexpr bool kOneEach = kItems <= Config::kConsumerThreads;
  static constexpr int kAtOnce = kOneEach ? 1 : 2;  // tokens
  static_assert(Config::kConsumerThreads % kColumns == 0, "a thread keeps its rows");
  const GemmI4F8Params& p;
  const float* x_scales;
  int item, end;    // of the tile's: [token][four outputs]
  int first_token;  // of the tile
  int row;          // of the tile's packed rows
  int packed_row;
  int out_row;
  float4 scale, up_scale;  // of the rows
  struct Inputs {          // of some tokens' outputs
    float x_scale[kAtOnce];
    uint2 other[kAtOnce];
  };
  Inputs first_inputs;
  typename Epilogue::To to;

  // Items [first, last) of a tile.
  __device__ TileOutputs(const GemmI4F8Params& params, const float* token_scales, int tile,
                         int first = 0, int last = kItems)
      : p(params), x_scales(token_scales), to(params) {
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
    first_inputs = Read(item);
  }

  // The j-th of the items from `i` on, of which the last is repeated.
  __device__ __forceinline__ int Item(int i, int j) const {
    return min(i + j * Config::kConsumerThreads, end - 1);
  }
  __device__ __forceinline__ int64_t Place(int i) const {
    return (first_token + i / kColumns) * p.ldy + out_row;
  }
  __device__ __forceinline__ Inputs Read(int i) const {
    Inputs in;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      in.x_scale[j] = x_scales[first_token + Item(i, j) / kColumns];
      in.other[j] = Epilogue::Read(p, Place(Item(i, j)));
    }
    return in;
  }

  template <class Sums>
  __device__ __forceinline__ void Store(const Sums& sums) const {
    constexpr int kStep = Config::kConsumerThreads;
    Inputs next = first_inputs;
#pragma unroll 1
    for (int i = item; i < end; i += kAtOnce * kStep) {
      const Inputs in = next;
      if (!kOneEach && i + kAtOnce * kStep < end) next = Read(i + kAtOnce * kStep);
      int token[kAtOnce];
      float4 v[kAtOnce], up[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) token[j] = Item(i, j) / kColumns;
      sums.Sum(token, row, v);
      if constexpr (kHalves) sums.Sum(token, row + 8, up);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        v[j] = ScaleAndBias(p, v[j], scale, in.x_scale[j], packed_row);
        if constexpr (kHalves)
          v[j] = Epilogue::Combine(v[j],
                                   ScaleAndBias(p, up[j], up_scale, in.x_scale[j], packed_row + 8));
        if (i + j * kStep < end)
          to.Store(first_token + token[j], Place(i + j * kStep),
                   Epilogue::Finish(p.out, v[j], in.other[j]));
      }
    }
  }
};

// Sends what this CTA has of the others' shares of the cluster's one tile, waits for what they have
// of its own, and finishes that. No fence across the cluster: bulk copies bring their own news.
template <class Config, class Epilogue>
__device__ __forceinline__ void StreamExchange(const GemmI4F8Params& p,
                                               const StreamShared<Config>& shared,
                                               const float* x_scales, int rank, int ranks,
                                               int tile) {
  using Outputs = TileOutputs<Config, Epilogue>;
  const int tokens = TokensOf<Config>(p, tile);
  const ExchangedSums<Config> mine(shared, rank, ranks, tokens);
  const Outputs outputs(p, x_scales, tile, mine.begin * Outputs::kColumns,
                        mine.end * Outputs::kColumns);
  FenceProxyAsync();  // sums written -> sums copied
  NamedBarrierSync(1, Config::kConsumerThreads);
  const int to = threadIdx.x;
  if (to < ranks && to != rank) {
    const ExchangedSums<Config> theirs(shared, to, ranks, tokens);
    for (int set = 0; set < Config::kGroupSets && theirs.bytes() > 0; ++set)
      BulkSendToCluster(theirs.Received(rank, set),
                        shared.partial(false) + PlaceOfSum<Config>(set, theirs.begin, 0),
                        theirs.bytes(), shared.handed_over(), to);
  }
  MbarrierWait(shared.handed_over(), 0);
  outputs.Store(mine);
}

}  // namespace fireq::sm90
