// A consumer warpgroup: 64 query rows against the tiles of keys. Per tile: probabilities of this
// one, then Q K of the next and P V of this one on the tensor cores, the second hidden by the
// exponents of the next tile.
//
// Units. With x the score in base 2 and r the tile's power of two >= |s_v|, P' is
// E4M3(2^(x - u) 256 s_v): u, an integer per row, is the served arithmetic's m + log2 r up to a
// difference that cancels in O = sum P' (q - z) / (256 sum 2^(x - u)). A row's u grows only when a
// probability would leave E4M3's range, and then by kMargin more than it must. The exponents x +
// log2 r - u of a tile show that without their maximum being known exactly: only an exponent that
// is too high is positive, and positive floats compare as integers, three at a time.
//
// The tensor cores add FP8 products with 13 bits below the largest, so the sums of P V are added in
// FP32 every kPrefillPromote tiles.
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

namespace fireq::sm90 {

// kTerms E4M3 numbers a P': 1 is the served arithmetic, 2 keeps 8 bits of it.
template <int kDim, int kTerms>
class PrefillConsumer {
 public:
  using Shared = PrefillShared<kDim>;

  // `group` is the warpgroup's number, from a shuffle, as everything that control flow around wgmma
  // depends on: it must be provably uniform, or ptxas serialises wgmma (C7520).
  __device__ PrefillConsumer(const AttnPrefillParams& p, Shared& shared, int group)
      : p_(p), shared_(shared), group_(group), c_(static_cast<int>(threadIdx.x) % 4) {}

  __device__ __forceinline__ void Run() {
    for (uint32_t turn = 0;; ++turn) {
      query_ = static_cast<int>(turn & 1);
      MbarrierWait(&shared_.q_full[query_], turn >> 1 & 1);
      const PrefillPiece& piece = shared_.piece[query_];
      const int32_t all = Uniform(piece.tiles);
      if (all < 0) break;
      const int32_t tiles = Uniform(piece.group_tiles[group_]);
      Start();
      if (tiles > 0) Attend(tiles, Uniform(piece.whole_tiles[group_]));
      for (int32_t i = tiles; i < all; ++i) Skip();
      Store();
      __syncwarp();
      if (threadIdx.x % 32 == 0) MbarrierArrive(&shared_.q_empty[query_]);
    }
  }

 private:
  static constexpr int kQuerySteps = kDim / 32;
  static constexpr int kValues = kDim / 2;  // sums of P V
  static constexpr float kHighest = 0.75f;  // exponent: P' <= 256 2^0.75 < 448
  static constexpr float kMargin = 2.0f;

  using Probs = uint32_t[kTerms][8];
  using Queries = uint32_t[kQuerySteps][4];

  static __device__ __forceinline__ int32_t Uniform(int32_t x) {
    return __shfl_sync(0xFFFFFFFFu, x, 0);
  }
  // This lane's row of the CTA's, for h = 0: read anew each time, so that nothing made of it is
  // kept in registers across the loop.
  static __device__ __forceinline__ int LaneRow() {
    uint32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return static_cast<int>(thread / 32 * 16 + thread % 32 / 4);
  }
  __device__ __forceinline__ const PrefillRow& Row(int h) const {
    return shared_.rows[query_][LaneRow() + 8 * h];
  }

  __device__ __forceinline__ void Start() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale_[h] = Row(h).scale;
      unit_[h] = 0.0f;
      out_unit_[h] = 0.0f;
      sum_[h] = 0.0f;
    }
    pending_ = 0;
#pragma unroll
    for (int i = 0; i < kValues; ++i) part_[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) out_[i] = 0.0f;
  }

  // The first `whole` tiles lie below every row's limit: they need no mask.
  __device__ __forceinline__ void Attend(int32_t tiles, int32_t whole) {
    Queries q;
    float low[16];   // scores, then exponents of the tile's first 32 keys
    float high[16];  // and of its last
    int32_t top[2];
    LoadQueries(q);
    MbarrierWait(&shared_.full[place_.stage], place_.phase);
    WgmmaFence();
    MultiplyKeys<0>(place_.stage, q, low);
    MultiplyKeys<1>(place_.stage, q, high);
    WgmmaCommit();
    WgmmaWait<0>();
    PinRegisters(low);
    PinRegisters(high);
    Exponents<0>(0, whole, low, top);
    Exponents<1>(0, whole, high, top);
    FirstUnits(low, high);
    for (int32_t tile = 0; tile + 1 < tiles; ++tile) Step<true>(tile, whole, q, low, high);
    Step<false>(tiles - 1, whole, q, low, high);
  }

  // Tile `tile`, whose exponents are `low` and `high`; leaves the next one's there. Each half's
  // next product starts when its registers are free and has the other half's work to hide it; P V
  // has the next exponents. Nothing is in flight outside: accumulators in flight across a loop's
  // back edge would serialise wgmma (C7514).
  template <bool kNext>
  __device__ __forceinline__ void Step(int32_t tile, int32_t whole, const Queries& q,
                                       float (&low)[16], float (&high)[16]) {
    const int stage = place_.stage;
    const PrefillScales& scales = shared_.scales[stage];
    place_.Next();
    Probs p;
    float sum[2] = {0.0f, 0.0f};
    int32_t top[2];
    Probabilities<0>(scales, low, p, sum);
    if constexpr (kNext) {
      MbarrierWait(&shared_.full[place_.stage], place_.phase);
      WgmmaFence();
      MultiplyKeys<0>(place_.stage, q, low);
      WgmmaCommit();
    }
    Probabilities<1>(scales, high, p, sum);
#pragma unroll
    for (int h = 0; h < 2; ++h) sum_[h] += sum[h] * scales.inverse_r;
    Pin(p);
    WgmmaFence();
    if constexpr (kNext) {
      MultiplyKeys<1>(place_.stage, q, high);
      WgmmaCommit();
    }
    MultiplyValues(stage, p);
    WgmmaCommit();
    if constexpr (kNext) {
      WgmmaWait<2>();
      PinRegisters(low);
      Exponents<0>(tile + 1, whole, low, top);
      WgmmaWait<1>();
      PinRegisters(high);
      Exponents<1>(tile + 1, whole, high, top);
    }
    WgmmaWait<0>();
    PinRegisters(part_);
    Pin(p);
    Release(stage);
    if (++pending_ == kPrefillPromote) Promote();
    if constexpr (kNext) {
      const int32_t highest = max(top[0], top[1]);
      if (__any_sync(0xFFFFFFFFu, highest > __float_as_int(kHighest))) Raise(top, low, high);
    }
  }

  // What the tensor cores have summed, into the FP32 sums.
  __device__ __forceinline__ void Promote() {
    pending_ = 0;
    const float factor[2] = {Exp2Approx(out_unit_[0] - unit_[0]),
                             Exp2Approx(out_unit_[1] - unit_[1])};
#pragma unroll
    for (int h = 0; h < 2; ++h) out_unit_[h] = unit_[h];
#pragma unroll
    for (int i = 0; i < kValues; ++i) out_[i] = out_[i] * factor[i >> 1 & 1] + part_[i];
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

  // The warpgroup's rows of Q as A operands: from shared memory they would be read with every tile.
  __device__ __forceinline__ void LoadQueries(Queries& q) const {
    const int row = LaneRow() % 64;
    const int swizzle = kDim == 128 ? row & 7 : (row >> 1) & 3;
    const uint8_t* from = shared_.q[query_][group_] + row * kDim + 4 * c_;
#pragma unroll
    for (int i = 0; i < kQuerySteps; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int chunk = 2 * i + r / 2;
        q[i][r] =
            *reinterpret_cast<const uint32_t*>(from + 8 * (r % 2) * kDim + 16 * (chunk ^ swizzle));
      }
    }
  }

  // Scores of half a tile's keys.
  template <int kHalf>
  __device__ __forceinline__ void MultiplyKeys(int stage, const Queries& q, float (&s)[16]) {
    const uint8_t* keys = shared_.k[stage] + kHalf * 32 * kDim;
    const uint64_t k = kDim == 128 ? DescriptorSwizzle128(keys) : DescriptorSwizzle64(keys);
#pragma unroll
    for (int i = 0; i < kQuerySteps; ++i) WgmmaE4M3<32>::Rs(s, q[i], k + 2 * i, i > 0);
  }

  // part_ (+)= P V.
  __device__ __forceinline__ void MultiplyValues(int stage, const Probs& p) {
    const uint64_t v = DescriptorSwizzle64(shared_.v[stage]);
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t a[4] = {p[t][4 * i], p[t][4 * i + 1], p[t][4 * i + 2], p[t][4 * i + 3]};
        WgmmaE4M3<kDim>::Rs(part_, a, v + 2 * i, t + i > 0 ? 1 : pending_);
      }
    }
  }

  // Products of half a tile to exponents; -infinity for the keys that the row does not see. `top`
  // becomes the largest of a row's in this lane if any is positive, and else no positive number (of
  // floats, as integers).
  template <int kHalf, bool kMasked>
  __device__ __forceinline__ void Exponents(int32_t tile, float (&s)[16], int32_t (&top)[2]) {
    const PrefillScales& scales = shared_.scales[place_.stage];
    const float bias[2] = {scales.log_r - unit_[0], scales.log_r - unit_[1]};
    int32_t limit[2] = {};
    if constexpr (kMasked) {
      for (int h = 0; h < 2; ++h) limit[h] = Row(h).limit - tile * kPrefillKeys - 4 * c_;
    }
    if constexpr (kHalf == 0) top[0] = top[1] = INT32_MIN;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int first = 32 * kHalf + 16 * b;
      const float4 score = *reinterpret_cast<const float4*>(scales.score + first + 4 * c_);
      const float score_of[4] = {score.x, score.y, score.z, score.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& x = s[Register(b, e, h)];
          x = __fmaf_rn(scale_[h], x * score_of[e], bias[h]);
          if (kMasked && first + e >= limit[h]) x = -INFINITY;
        }
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          top[h] = __vimax3_s32(top[h], __float_as_int(s[Register(b, e, h)]),
                                __float_as_int(s[Register(b, e + 1, h)]));
        }
      }
    }
  }
  template <int kHalf>
  __device__ __forceinline__ void Exponents(int32_t tile, int32_t whole, float (&s)[16],
                                            int32_t (&top)[2]) {
    if (tile >= whole) {
      Exponents<kHalf, true>(tile, s, top);
    } else {
      Exponents<kHalf, false>(tile, s, top);
    }
  }

  // u of rows whose exponents, so far with u = 0, are those of the first tile.
  __device__ __forceinline__ void FirstUnits(float (&low)[16], float (&high)[16]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = -INFINITY;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        if ((i >> 1 & 1) == h) top = fmaxf(top, fmaxf(low[i], high[i]));
      }
      top = QuadMax(top);
      if (top > -INFINITY) unit_[h] = ceilf(top) + kMargin;
    }
    Lower(low, unit_);
    Lower(high, unit_);
  }

  // Larger u for the rows that have a `top` too high.
  __device__ __forceinline__ void Raise(const int32_t (&top)[2], float (&low)[16],
                                        float (&high)[16]) {
    float by[2];
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float highest = QuadMax(__int_as_float(top[h]));
      by[h] = highest > kHighest ? ceilf(highest) + kMargin : 0.0f;
      factor[h] = Exp2Approx(-by[h]);
      unit_[h] += by[h];
      sum_[h] *= factor[h];
    }
    Lower(low, by);
    Lower(high, by);
#pragma unroll
    for (int i = 0; i < kValues; ++i) part_[i] *= factor[i >> 1 & 1];
  }

  static __device__ __forceinline__ void Lower(float (&exponents)[16], const float (&by)[2]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) exponents[i] -= by[i >> 1 & 1];
  }

  // Exponents of half a tile to P'; adds to the lane's sums of probabilities.
  template <int kHalf>
  __device__ __forceinline__ void Probabilities(const PrefillScales& scales, const float (&s)[16],
                                                Probs& p, float (&sum)[2]) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int block = 2 * kHalf + b;
      const float4 value = *reinterpret_cast<const float4*>(scales.value + 16 * block + 4 * c_);
      const float value_of[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float x[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] = Exp2Approx(s[Register(b, e, h)]);
        sum[h] += (x[0] + x[1]) + (x[2] + x[3]);
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] *= value_of[e];
        p[0][2 * block + h] = FloatsToE4M3x4(x[0], x[1], x[2], x[3]);
        if constexpr (kTerms == 2) p[1][2 * block + h] = Remainder(p[0][2 * block + h], x);
      }
    }
  }

  static __device__ __forceinline__ float QuadMax(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
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

  __device__ __forceinline__ void Store() {
    if (pending_ > 0) Promote();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum_[h] += __shfl_xor_sync(0xFFFFFFFFu, sum_[h], 1);
      sum_[h] += __shfl_xor_sync(0xFFFFFFFFu, sum_[h], 2);
      const float factor = sum_[h] == 0.0f ? 0.0f : __fdividef(512.0f / 256.0f, sum_[h]);
      const int64_t row = Row(h).index;
      if (row < 0) continue;
      bf16_t* to = p_.out + row * kDim + 2 * c_;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        *reinterpret_cast<uint32_t*>(to + 8 * j) =
            FloatsToBf16x2(out_[4 * j + 2 * h] * factor, out_[4 * j + 2 * h + 1] * factor);
      }
    }
  }

  const AttnPrefillParams& p_;
  Shared& shared_;
  const int group_;
  const int c_;
  int query_ = 0;  // buffer of Q
  RingPlace<kPrefillStages> place_;
  float part_[kValues];  // of the last pending_ tiles, in units of unit_
  float out_[kValues];   // of the tiles before, in units of out_unit_
  int pending_;
  float scale_[2];     // scale_q log2(e) / sqrt(Dh)
  float unit_[2];      // u
  float out_unit_[2];  // u when out_ was last added to
  float sum_[2];       // this lane's part of sum 2^(x - u)
};

}  // namespace fireq::sm90
