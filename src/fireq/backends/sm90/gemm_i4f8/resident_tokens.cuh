// One token, normalised and quantised by every CTA for itself: what a kernel of its own would take
// to start, to end and to be waited for is more than what it does.
#pragma once

#include "fireq/backends/sm90/elementwise/row_quant.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"

namespace fireq::sm90 {

template <class Config>
struct ResidentTokens {
  uint8_t* base;
  __device__ uint8_t* codes(int group) const { return base + group * kGroup; }
  __device__ float* sums(int group) const {
    return reinterpret_cast<float*>(base + Config::kResidentCodeBytes) + group * Config::kTokens;
  }
  __device__ float* scales() const { return sums(Config::kResidentGroups); }
  __device__ float* slots() const { return scales() + Config::kTokens; }
};

// The token's place.
template <class Config>
struct ResidentRow {
  ResidentTokens<Config> tokens;
  __device__ void Scale(float scale) const { tokens.scales()[0] = scale; }
  __device__ void Codes(int vector, uint2 codes) const {
    *reinterpret_cast<uint2*>(tokens.base + vector * kVectorWidth) = codes;
  }
  __device__ void Sum(int group, float sum) const { tokens.sums(group)[0] = sum; }
};

// A thread's share of a token, and the weights of the norm, if there is one: on their way before
// tokens are there, as far as there are registers for them.
template <class Config, int kGroups = Config::kResidentGroups>
struct ResidentShare {
  static constexpr int kThreads = Config::kConsumerThreads;
  static constexpr int kVectors = CeilDiv(kGroups * kVectorsPerGroup, kThreads);
  using TokenRow = Row<kVectors, kThreads>;
  static constexpr int kMostVectorsAtHand = 2;

  static __device__ __forceinline__ auto Norm(const GemmI4F8Params& p) {
    if constexpr (kVectors <= kMostVectorsAtHand) {
      return WeightsAtHand<TokenRow>(p.norm, p.norm != nullptr ? p.groups * kGroup : 0);
    } else {
      return WeightsInMemory{p.norm};
    }
  }
};

struct NoNorm {};

// A token in memory that is complete.
struct ValuesInMemory {
  const uint4* x;
  __device__ __forceinline__ explicit ValuesInMemory(const GemmI4F8Params& p)
      : x(reinterpret_cast<const uint4*>(p.bf16_x)) {}
  template <class TokenRow>
  __device__ __forceinline__ void Load(TokenRow& row) const {
#pragma unroll
    for (int v = 0; v < TokenRow::kVectors; ++v)
      UnpackBf16(row.Has(v) ? x[row.Index(v)] : uint4{0, 0, 0, 0}, row.value[v]);
  }
};

// All consumer threads, of no more than kGroups groups. Sums of other tokens stay what they are:
// they reach only outputs that are not stored. Groups past K meet weights of zero, so their codes
// and sums must be numbers.
template <class Config, int kGroups = Config::kResidentGroups, class Values, class Norm>
__device__ __forceinline__ void MakeResidentTokensOf(const Values& values, const GemmI4F8Params& p,
                                                     const Norm& norm,
                                                     ResidentTokens<Config> tokens) {
  constexpr int kThreads = Config::kConsumerThreads;
  using Share = ResidentShare<Config, kGroups>;
  const int k = p.groups * kGroup;
  typename Share::TokenRow row(k);
  values.Load(row);
  float* slots = tokens.slots();
  Normalised normalised;
  if constexpr (std::is_same_v<Norm, NoNorm>) {
    normalised = {1.0f, RowAbsMax(row, slots)};
  } else {
    normalised = p.norm != nullptr ? Normalise(row, norm, p.norm_eps, k, slots)
                                   : Normalised{1.0f, RowAbsMax(row, slots)};
  }
  WriteRow(row, normalised.inv_rms, normalised.absmax, ResidentRow<Config>{tokens});
  const int end = AlignUp(p.groups, Config::kGroups);
  for (int i = p.groups * kGroup / 4 + static_cast<int>(threadIdx.x); i < end * kGroup / 4;
       i += kThreads)
    reinterpret_cast<uint32_t*>(tokens.base)[i] = 0;
  for (int i = p.groups * Config::kTokens + static_cast<int>(threadIdx.x);
       i < end * Config::kTokens; i += kThreads)
    tokens.sums(0)[i] = 0.0f;
  FenceProxyAsync();  // codes written -> codes multiplied
  NamedBarrierSync(1, kThreads);
}

template <class Config, int kGroups = Config::kResidentGroups, class Norm>
__device__ __forceinline__ void MakeResidentTokens(const GemmI4F8Params& p, const Norm& norm,
                                                   ResidentTokens<Config> tokens) {
  MakeResidentTokensOf<Config, kGroups>(ValuesInMemory(p), p, norm, tokens);
}

}  // namespace fireq::sm90
