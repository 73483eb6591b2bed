// A consumer warpgroup: 64 query rows against the tiles of keys, three stages in flight: S of the
// next tile (tensor cores), softmax of this one, P V of the last (tensor cores).
//
// The tensor cores add FP8 products with 13 bits below the largest: a sum over thousands of keys
// would lose percents. So P V of one tile goes to fresh registers and is added in FP32, in two
// parts of d, because registers are short.
//
// Lane l of warp w holds rows 16 w + l / 4 and + 8 (index h below), c = l % 4. P stays in
// registers as the A operand. With RowOfKey's order of K's rows, register 4 j + 2 h + i of S is,
// for j = 2 b + e / 2 and i = e % 2, the score of token 16 b + 4 c + e.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/wgmma.cuh"
#include "fireq/backends/sm90/ptx/wgmma_values.cuh"

namespace fireq::sm90 {

// kTerms E4M3 numbers a P': 1 is the served arithmetic, 2 keeps 8 bits of it.
template <int kDim, int kTerms>
class PrefillConsumer {
 public:
  using Shared = PrefillShared<kDim>;

  // `group` is the warpgroup's number, from a shuffle: control flow around wgmma must be provably
  // uniform, or ptxas serialises it (C7520).
  __device__ PrefillConsumer(const AttnPrefillParams& p, Shared& shared, int group)
      : p_(p),
        shared_(shared),
        group_(group),
        row_(static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4),
        c_(static_cast<int>(threadIdx.x) % 4) {}

  __device__ __forceinline__ void Run() {
    PrefillWalk walk(p_);
    PrefillWork work;
    for (uint32_t turn = 0; walk.Next(work); ++turn) {
      const int first = work.first_row + 64 * group_;
      const int32_t all = work.Tiles(work.first_row, kPrefillRows, p_.group);
      const int32_t tiles = work.Tiles(first, 64, p_.group);
      Start(work);
      query_ = static_cast<int>(turn & 1);
      MbarrierWait(&shared_.q_full[query_], turn >> 1 & 1);
      // Tiles that every row sees whole need no mask.
      const int32_t whole = work.Limit(first, p_.group) / kPrefillKeys;
      if constexpr (kTerms == 1) {
        if (tiles > 0) Attend(tiles, whole);
      } else {
        AttendInTurn(tiles, whole);
      }
      __syncwarp();
      if (threadIdx.x % 32 == 0) MbarrierArrive(&shared_.q_empty[query_]);
      for (int32_t i = tiles; i < all; ++i) Skip();
      walk.Again(work);
      Store(work);
    }
  }

 private:
  static constexpr int kQuerySteps = kDim / 32;
  static constexpr int kValues = (kDim + 8) / 2;  // sums of P V and of P z
  static constexpr int kParts = kDim / 64;        // of d; the last has the zero points too

  using Probs = uint32_t[kTerms][8];

  __device__ __forceinline__ void Start(const PrefillWork& work) {
    constexpr float kLog2eOverRoot =
        1.4426950408889634f * (kDim == 128 ? 0.08838834764831845f : 0.125f);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = work.first_row + row_ + 8 * h;
      const bool valid = row < work.rows;
      scale_[h] =
          valid ? p_.scale_q[work.Index(row, p_.group, p_.num_heads)] * kLog2eOverRoot : 0.0f;
      limit_[h] = work.Limit(row, p_.group);
      maximum_[h] = -1e30f;  // below every score, and finite
      sum_[h] = 0.0f;
    }
    r_ = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) out_[i] = 0.0f;
  }

  // `whole` tiles lie below every row's limit.
  __device__ __forceinline__ void Attend(int32_t tiles, int32_t whole) {
    float s[32];
    Probs p0 = {};  // the product before the first tile: P = 0 with that tile's V
    Probs p1 = {};
    Pin(p0);
    Pin(p1);
    int last = place_.stage;
    MbarrierWait(&shared_.full[place_.stage], place_.phase);
    WgmmaFence();
    MultiplyKeys(place_.stage, s);
    WgmmaCommit();
    WgmmaWait<0>();
    PinRegisters(s);
    // P's registers take turns, and always end in p1: copies between them would serialise wgmma
    // (C7513).
    int32_t tile = 0;
    if (tiles % 2 == 0) Step<true>(tile++, whole, last, s, p1, p0);
    for (; tile + 1 < tiles; tile += 2) {
      Step<true>(tile, whole, last, s, p0, p1);
      Step<true>(tile + 1, whole, last, s, p1, p0);
    }
    Step<false>(tile, whole, last, s, p0, p1);
    LastValues(last, p1);
  }

  // The same without overlap: the debugging form has no registers for it.
  __device__ __forceinline__ void AttendInTurn(int32_t tiles, int32_t whole) {
    for (int32_t tile = 0; tile < tiles; ++tile) {
      const int stage = place_.stage;
      float s[32];
      Probs p;
      MbarrierWait(&shared_.full[stage], place_.phase);
      WgmmaFence();
      MultiplyKeys(stage, s);
      WgmmaCommit();
      WgmmaWait<0>();
      PinRegisters(s);
      float top[2] = {-INFINITY, -INFINITY};
      float factor[2];
      Scores(tile, tile >= whole, stage, s, top);
      const bool changed = Probabilities(stage, s, top, p, factor);
      if (__any_sync(0xFFFFFFFFu, changed)) Rescale(factor);
      r_ = shared_.scales[stage].r;
      LastValues(stage, p);
      place_.Next();
    }
  }

  // Tile `tile`, whose scores are `s`; `last` is the stage of the tile before, whose P is `before`.
  // On the tensor cores meanwhile: the first part of d of P V of that tile beside the scores, the
  // second beside the exponentials, and Q K of the next tile as soon as `s` is free.
  template <bool kNext>
  __device__ __forceinline__ void Step(int32_t tile, int32_t whole, int& last, float (&s)[32],
                                       Probs& before, Probs& p) {
    const int stage = place_.stage;
    place_.Next();
    float part[36];
    WgmmaFence();
    MultiplyValues<0>(last, before[0], part);
    WgmmaCommit();
    float top[2] = {-INFINITY, -INFINITY};
    Scores(tile, tile >= whole, stage, s, top);
    WgmmaWait<0>();
    Add<0>(part);
    if constexpr (kParts == 2) {
      WgmmaFence();
      MultiplyValues<1>(last, before[0], part);
      WgmmaCommit();
    }
    float factor[2];
    const bool changed = Probabilities(stage, s, top, p, factor);
    Pin(p);  // made before s is written again: both at once would not fit the registers
    if constexpr (kNext) {
      MbarrierWait(&shared_.full[place_.stage], place_.phase);
      WgmmaFence();
      MultiplyKeys(place_.stage, s);
      WgmmaCommit();
    }
    if constexpr (kParts == 2) {
      WgmmaWait<kNext ? 1 : 0>();
      Add<1>(part);
    }
    Pin(before);
    if (last != stage) Release(last);
    last = stage;
    r_ = shared_.scales[stage].r;
    if (__any_sync(0xFFFFFFFFu, changed)) Rescale(factor);
    if constexpr (kNext) {
      WgmmaWait<0>();
      PinRegisters(s);
    }
  }

  // P V of a tile with nothing beside it.
  __device__ __forceinline__ void LastValues(int stage, Probs& p) {
    AddValues<0>(stage, p);
    if constexpr (kParts == 2) AddValues<1>(stage, p);
    Release(stage);
  }
  template <int kPart>
  __device__ __forceinline__ void AddValues(int stage, Probs& p) {
    float part[36];
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
      WgmmaFence();
      MultiplyValues<kPart>(stage, p[t], part, t > 0);
      WgmmaCommit();
      WgmmaWait<0>();
      PinRegisters(p[t]);
    }
    Add<kPart>(part);
  }

  // A tile that only the other warpgroup needs. It must have been filled before it is given back:
  // else this arrival would count for the phase before.
  __device__ __forceinline__ void Skip() {
    MbarrierWait(&shared_.full[place_.stage], place_.phase);
    Release(place_.stage);
    place_.Next();
  }

  __device__ __forceinline__ void Release(int stage) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) MbarrierArrive(&shared_.empty[stage]);
  }

  static __device__ __forceinline__ void Pin(Probs& p) {
#pragma unroll
    for (int t = 0; t < kTerms; ++t) PinRegisters(p[t]);
  }

  __device__ __forceinline__ void MultiplyKeys(int stage, float (&s)[32]) {
    const uint64_t k = kDim == 128 ? DescriptorSwizzle128(shared_.k[stage])
                                   : DescriptorSwizzle64(shared_.k[stage]);
    const uint64_t q = kDim == 128 ? DescriptorSwizzle128(shared_.q[query_][group_])
                                   : DescriptorSwizzle64(shared_.q[query_][group_]);
#pragma unroll
    for (int i = 0; i < kQuerySteps; ++i) {
      WgmmaE4M3<kPrefillKeys>::Ss(s, q + 2 * i, k + 2 * i, i > 0);
    }
  }

  // part (+)= P V of d 64 kPart .. + 63, and P z behind the last.
  template <int kPart>
  __device__ __forceinline__ void MultiplyValues(int stage, const uint32_t (&p)[8],
                                                 float (&part)[36], int accumulate = 0) {
    constexpr int kColumns = kPart == kParts - 1 ? 72 : 64;
    const uint64_t v = DescriptorSwizzle64(shared_.v[stage] + 64 * kPart * kPrefillKeys);
    float(&sums)[kColumns / 2] = reinterpret_cast<float(&)[kColumns / 2]>(part);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t a[4] = {p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]};
      WgmmaE4M3<kColumns>::Rs(sums, a, v + 2 * i, i > 0 ? 1 : accumulate);
    }
  }

  // The sums of a tile, in units of its own r, into the FP32 sums.
  template <int kPart>
  __device__ __forceinline__ void Add(float (&part)[36]) {
    PinRegisters(part);
    constexpr int kCount = kPart == kParts - 1 ? 36 : 32;
#pragma unroll
    for (int i = 0; i < kCount; ++i) out_[32 * kPart + i] += part[i] * r_;
  }

  // Scores of one tile, without the row's factor, and their maxima over this lane's keys.
  template <bool kMasked>
  __device__ __forceinline__ void Scores(int32_t tile, const PrefillScales& scales, float (&s)[32],
                                         float (&top)[2]) {
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float4 score = *reinterpret_cast<const float4*>(scales.score + 16 * b + 4 * c_);
      const float score_of[4] = {score.x, score.y, score.z, score.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float& x = s[Register(b, e, h)];
          x *= score_of[e];
          if (kMasked && tile * kPrefillKeys + 16 * b + 4 * c_ + e >= limit_[h]) x = -INFINITY;
          top[h] = fmaxf(top[h], x);
        }
      }
    }
  }

  __device__ __forceinline__ void Scores(int32_t tile, bool masked, int stage, float (&s)[32],
                                         float (&top)[2]) {
    const PrefillScales& scales = shared_.scales[stage];
    if (masked) {
      Scores<true>(tile, scales, s, top);
    } else {
      Scores<false>(tile, scales, s, top);
    }
  }

  // Scores of one tile to P'. Returns whether what was summed before must be multiplied by
  // `factor` (powers of two).
  __device__ __forceinline__ bool Probabilities(int stage, const float (&s)[32], float (&top)[2],
                                                Probs& p, float (&factor)[2]) {
    const PrefillScales& scales = shared_.scales[stage];
    bool changed = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xFFFFFFFFu, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xFFFFFFFFu, top[h], 2));
      const float maximum = fmaxf(maximum_[h], ceilf(scale_[h] * top[h]));
      changed |= maximum != maximum_[h];
      factor[h] = Exp2Approx(maximum_[h] - maximum);
      sum_[h] *= factor[h];
      maximum_[h] = maximum;
    }
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float4 value = *reinterpret_cast<const float4*>(scales.value + 16 * b + 4 * c_);
      const float value_of[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float x[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float probability = Exp2Approx(scale_[h] * s[Register(b, e, h)] - maximum_[h]);
          sum_[h] += probability;
          x[e] = probability * value_of[e];
        }
        p[0][2 * b + h] = FloatsToE4M3x4(x[0], x[1], x[2], x[3]);
        if constexpr (kTerms == 2) p[1][2 * b + h] = Remainder(p[0][2 * b + h], x);
      }
    }
    return changed;
  }

  static constexpr __device__ int Register(int b, int e, int h) {
    return 4 * (2 * b + e / 2) + 2 * h + e % 2;
  }

  // What rounding left over, rounded.
  static __device__ __forceinline__ uint32_t Remainder(uint32_t rounded, const float (&x)[4]) {
    const uint32_t low = E4M3x2ToHalf2(static_cast<uint16_t>(rounded));
    const uint32_t high = E4M3x2ToHalf2(static_cast<uint16_t>(rounded >> 16));
    const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&low));
    const float2 b = __half22float2(*reinterpret_cast<const __half2*>(&high));
    return FloatsToE4M3x4(x[0] - a.x, x[1] - a.y, x[2] - b.x, x[3] - b.y);
  }

  __device__ __forceinline__ void Rescale(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) out_[i] *= factor[i >> 1 & 1];
  }

  __device__ __forceinline__ void Store(const PrefillWork& work) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum_[h] += __shfl_xor_sync(0xFFFFFFFFu, sum_[h], 1);
      sum_[h] += __shfl_xor_sync(0xFFFFFFFFu, sum_[h], 2);
      // Column Dh of O is sum P' z, held by the quad's first lane.
      const float zero = __shfl_sync(0xFFFFFFFFu, out_[kDim / 2 + 2 * h], threadIdx.x & 28);
      const float factor = sum_[h] == 0.0f ? 0.0f : (512.0f / 256.0f) / sum_[h];
      const int row = work.first_row + row_ + 8 * h;
      if (row >= work.rows) continue;
      bf16_t* to = p_.out + work.Index(row, p_.group, p_.num_heads) * kDim + 2 * c_;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        *reinterpret_cast<uint32_t*>(to + 8 * j) = FloatsToBf16x2(
            (out_[4 * j + 2 * h] - zero) * factor, (out_[4 * j + 2 * h + 1] - zero) * factor);
      }
    }
  }

  const AttnPrefillParams& p_;
  Shared& shared_;
  const int group_;
  const int row_;  // of the CTA's, h = 0
  const int c_;
  int query_ = 0;  // buffer of Q
  RingPlace<kPrefillStages> place_;
  float out_[kValues];
  float scale_[2];    // scale_q log2(e) / sqrt(Dh)
  float maximum_[2];  // integers
  float sum_[2];      // this lane's part
  float r_;           // of the tile whose P V is on its way
  int32_t limit_[2];  // keys that the row sees
};

}  // namespace fireq::sm90
