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
// FP32 every kPrefillPromote tiles; those sums lie in shared memory, for registers are what limits
// the number of warpgroups, and their number is what hides latencies.
//
// Lane l of warp w holds rows 16 w + l / 4 and + 8 (index h below), c = l % 4. P stays in
// registers as the A operand. With RowOfKey's order of K's rows, register 4 j + 2 h + i of S is,
// for j = 2 b + e / 2 and i = e % 2, the score of token 16 b + 4 c + e.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
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
    bool more = WaitPiece(0);
    if (more) LoadQueries(0);
    for (uint32_t turn = 0; more; ++turn) {
      buffer_ = static_cast<int>(turn & 1);
      Start();
      QueriesAreThere();
      const int32_t tiles = Uniform(Piece().group_tiles[group_]);
      if (tiles > 0) Attend(tiles);
      for (int32_t i = tiles; i < Piece().tiles; ++i) Skip();
      more = WaitPiece(turn + 1);
      GroupBarrier();  // no warp multiplies with this piece's Q any more
      if (more) LoadQueries(turn + 1);
      Store();
      __syncwarp();
      if (threadIdx.x % 32 == 0) MbarrierArrive(&shared_.piece_empty[turn & 1]);
    }
  }

 private:
  static constexpr int kQuerySteps = kDim / 32;
  static constexpr int kValues = kDim / 2;  // sums of P V
  static constexpr float kHighest = 0.75f;  // exponent: P' <= 256 2^0.75 < 448
  static constexpr float kMargin = 2.0f;

  using Probs = uint32_t[kTerms][8];

  static __device__ __forceinline__ int32_t Uniform(int32_t x) {
    return __shfl_sync(0xFFFFFFFFu, x, 0);
  }
  __device__ __forceinline__ void GroupBarrier() const {
    NamedBarrierSync(1 + static_cast<uint32_t>(group_), 128);
  }
  // Read anew each time, so that nothing made of it is kept in registers across the loop.
  static __device__ __forceinline__ int Thread() {
    uint32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return static_cast<int>(thread);
  }
  // This lane's row of the CTA's, for h = 0.
  static __device__ __forceinline__ int LaneRow() {
    const int thread = Thread();
    return thread / 32 * 16 + thread % 32 / 4;
  }
  __device__ __forceinline__ PrefillRow& Row(int h) const {
    return shared_.rows[buffer_][LaneRow() + 8 * h];
  }

  __device__ __forceinline__ const PrefillPiece& Piece() const { return shared_.piece[buffer_]; }

  // Until a turn's piece is known; false when there is none.
  __device__ __forceinline__ bool WaitPiece(uint32_t turn) {
    MbarrierWait(&shared_.piece_full[turn & 1], turn >> 1 & 1);
    return Uniform(shared_.piece[turn & 1].tiles) >= 0;
  }
  // Begins to copy the warpgroup's 64 rows of Q, zeros for rows that are not there.
  __device__ __forceinline__ void LoadQueries(uint32_t turn) {
    constexpr int kChunks = kDim / 16;  // of a row
    const int thread = Thread();
#pragma unroll
    for (int i = 0; i < 64 * kChunks / 128; ++i) {
      const int row = thread % 128 / kChunks + 128 / kChunks * i;
      const int chunk = thread % kChunks;
      const int swizzle = kDim == 128 ? row & 7 : (row >> 1) & 3;
      const int64_t index = shared_.rows[turn & 1][64 * group_ + row].index;
      CopyAsync16(shared_.q[group_] + row * kDim + 16 * (chunk ^ swizzle),
                  p_.q + (index < 0 ? 0 : index) * kDim + 16 * chunk, index < 0 ? 0 : 16);
    }
  }
  __device__ __forceinline__ void QueriesAreThere() {
    CopyAsyncWaitAll();
    FenceProxyAsync();
    GroupBarrier();
  }

  __device__ __forceinline__ void Start() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale_[h] = Row(h).scale;
      unit_[h] = 0.0f;
      sum_[h] = 0.0f;
    }
    pending_ = 0;
    promoted_ = 0;
    Clear(part_);
  }

  __device__ __forceinline__ void Attend(int32_t tiles) {
    float s[32];
    int32_t top[2];
    MbarrierWait(&shared_.full[place_.stage], place_.phase);
    WgmmaFence();
    MultiplyKeys(place_.stage, s);
    WgmmaCommit();
    WgmmaWait<0>();
    PinRegisters(s);
    Exponents(tiles, s, top);
    FirstUnits(s);
    for (int32_t left = tiles - 1; left > 0; --left) Step<true>(left, s);
    Step<false>(0, s);
  }

  // The tile whose exponents are `s`, `left` behind it; leaves the next one's there. Nothing is in
  // flight outside: accumulators in flight across a loop's back edge would serialise wgmma (C7514).
  template <bool kNext>
  __device__ __forceinline__ void Step(int32_t left, float (&s)[32]) {
    const int stage = place_.stage;
    place_.Next();
    Probs p;
    int32_t top[2];
    Probabilities<0>(shared_.scales[stage], s, p);
    Pin(p);
    WgmmaFence();
    MultiplyValues<0>(stage, p);
    WgmmaCommit();
    Probabilities<1>(shared_.scales[stage], s, p);
    Pin(p);
    if constexpr (kNext) {
      // No sum is negative. That the wait hangs on them makes ptxas add up the probabilities before
      // it, and not keep them all in registers that it does not have.
      const uint32_t never = fminf(sum_[0], sum_[1]) < 0.0f ? 1 : 0;
      MbarrierWait(&shared_.full[place_.stage], place_.phase ^ never);
      WgmmaFence();
      MultiplyKeys(place_.stage, s);
      WgmmaCommit();
    } else {
      WgmmaFence();
    }
    MultiplyValues<1>(stage, p);
    WgmmaCommit();
    if constexpr (kNext) {
      WgmmaWait<1>();
      PinRegisters(s);
      Exponents(left, s, top);
    }
    WgmmaWait<0>();
    PinRegisters(part_);
    Pin(p);
    Release(stage);
    if constexpr (kNext) {
      const int32_t highest = max(top[0], top[1]);
      if (__any_sync(0xFFFFFFFFu, highest > __float_as_int(kHighest))) Raise(top, s);
    }
    if (++pending_ == kPrefillPromote) Promote();
  }

  // What the tensor cores have summed, added to this thread's FP32 sums of the piece.
  __device__ __forceinline__ void Promote() {
    float4* sums = &shared_.sums[group_][0][threadIdx.x % 128];
    if (promoted_ > 0) AddSums(sums);
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      sums[128 * j] =
          make_float4(part_[4 * j], part_[4 * j + 1], part_[4 * j + 2], part_[4 * j + 3]);
    }
    Row(0).unit = unit_[0];  // the row's four lanes write the same
    Row(1).unit = unit_[1];
    pending_ = 0;
    promoted_ = 1;
  }
  __device__ __forceinline__ void AddSums(const float4* sums) {
    const float factor[2] = {Exp2Approx(Row(0).unit - unit_[0]),
                             Exp2Approx(Row(1).unit - unit_[1])};
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      const float4 x = sums[128 * j];
      part_[4 * j] += x.x * factor[0];
      part_[4 * j + 1] += x.y * factor[0];
      part_[4 * j + 2] += x.z * factor[1];
      part_[4 * j + 3] += x.w * factor[1];
    }
  }

  // A tile that only other warpgroups need. It must have been filled before it is given back:
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
    const uint64_t q = kDim == 128 ? DescriptorSwizzle128(shared_.q[group_])
                                   : DescriptorSwizzle64(shared_.q[group_]);
#pragma unroll
    for (int i = 0; i < kQuerySteps; ++i) {
      WgmmaE4M3<kPrefillKeys>::Ss(s, q + 2 * i, k + 2 * i, i > 0);
    }
  }

  // part_ (+)= P V of half a tile's keys.
  template <int kHalf>
  __device__ __forceinline__ void MultiplyValues(int stage, const Probs& p) {
    const uint64_t v = DescriptorSwizzle64(shared_.v[stage]);
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
      const uint32_t(&half)[8] = p[t];
      const uint32_t a[4] = {half[4 * kHalf], half[4 * kHalf + 1], half[4 * kHalf + 2],
                             half[4 * kHalf + 3]};
      WgmmaE4M3<kDim>::Rs(part_, a, v + 2 * kHalf, t + kHalf > 0 ? 1 : pending_);
    }
  }

  // Products to exponents, with `left` tiles from this one on; -infinity for the keys that the row
  // does not see. `top` is the largest of a row's in this lane if any is positive, and else no
  // positive number (of floats, as integers).
  template <bool kMasked>
  __device__ __forceinline__ void Exponents(int32_t left, float (&s)[32], int32_t (&top)[2]) {
    const PrefillScales& scales = shared_.scales[place_.stage];
    const float bias[2] = {scales.log_r - unit_[0], scales.log_r - unit_[1]};
    int32_t limit[2] = {};
    if constexpr (kMasked) {
      const int32_t tile = Piece().group_tiles[group_] - left;
      for (int h = 0; h < 2; ++h) limit[h] = Row(h).limit - tile * kPrefillKeys - 4 * c_;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) top[h] = INT32_MIN;
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float4 score = *reinterpret_cast<const float4*>(scales.score + 16 * b + 4 * c_);
      const float score_of[4] = {score.x, score.y, score.z, score.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& x = s[Register(b, e, h)];
          x = __fmaf_rn(scale_[h], x * score_of[e], bias[h]);
          if (kMasked && 16 * b + e >= limit[h]) x = -INFINITY;
        }
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          top[h] = __vimax3_s32(top[h], __float_as_int(s[Register(b, e, h)]),
                                __float_as_int(s[Register(b, e + 1, h)]));
        }
      }
    }
  }
  __device__ __forceinline__ void Exponents(int32_t left, float (&s)[32], int32_t (&top)[2]) {
    if (left <= Uniform(Piece().masked_tiles[group_])) {
      Exponents<true>(left, s, top);
    } else {
      Exponents<false>(left, s, top);
    }
  }

  // u of rows whose exponents, so far with u = 0, are those of the first tile.
  __device__ __forceinline__ void FirstUnits(float (&s)[32]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = -INFINITY;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        if ((i >> 1 & 1) == h) top = fmaxf(top, s[i]);
      }
      top = QuadMax(top);
      if (top > -INFINITY) unit_[h] = ceilf(top) + kMargin;
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i] -= unit_[i >> 1 & 1];
  }

  // Larger u for the rows that have a `top` too high.
  __device__ __forceinline__ void Raise(const int32_t (&top)[2], float (&s)[32]) {
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
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i] -= by[i >> 1 & 1];
#pragma unroll
    for (int i = 0; i < kValues; ++i) part_[i] *= factor[i >> 1 & 1];
  }

  // Exponents of one tile to P', and the lane's sums of probabilities.
  template <int kHalf>
  __device__ __forceinline__ void Probabilities(const PrefillScales& scales, const float (&s)[32],
                                                Probs& p) {
    const float inverse_r = scales.inverse_r;
#pragma unroll
    for (int b = 2 * kHalf; b < 2 * kHalf + 2; ++b) {
      const float4 value = *reinterpret_cast<const float4*>(scales.value + 16 * b + 4 * c_);
      const float value_of[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float x[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] = Exp2Approx(s[Register(b, e, h)]);
        sum_[h] = __fmaf_rn((x[0] + x[1]) + (x[2] + x[3]), inverse_r, sum_[h]);
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] *= value_of[e];
        p[0][2 * b + h] = FloatsToE4M3x4(x[0], x[1], x[2], x[3]);
        if constexpr (kTerms == 2) p[1][2 * b + h] = Remainder(p[0][2 * b + h], x);
      }
    }
  }

  static __device__ __forceinline__ float QuadMax(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
  }

  static __device__ __forceinline__ void Clear(float (&values)[kValues]) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = 0.0f;
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
    if (promoted_ > 0) {
      // With nothing pending, part_ is what went to the sums last.
      if (pending_ == 0) Clear(part_);
      AddSums(&shared_.sums[group_][0][threadIdx.x % 128]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum_[h] += __shfl_xor_sync(0xFFFFFFFFu, sum_[h], 1);
      sum_[h] += __shfl_xor_sync(0xFFFFFFFFu, sum_[h], 2);
      const float factor = sum_[h] == 0.0f ? 0.0f : __fdividef(512.0f / 256.0f, sum_[h]);
      const int64_t row = Row(h).index;  // of 64 bits from here on
      if (row < 0) continue;
      bf16_t* to = p_.out + row * kDim + 2 * (Thread() % 4);
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        *reinterpret_cast<uint32_t*>(to + 8 * j) =
            FloatsToBf16x2(part_[4 * j + 2 * h] * factor, part_[4 * j + 2 * h + 1] * factor);
      }
    }
  }

  const AttnPrefillParams& p_;
  Shared& shared_;
  const int group_;
  const int c_;
  int buffer_ = 0;  // of the piece and its rows
  RingPlace<kPrefillStages> place_;
  float part_[kValues];  // of the last pending_ tiles, in units of unit_
  int pending_;
  int promoted_;    // whether there are sums in shared memory
  float scale_[2];  // scale_q log2(e) / sqrt(Dh)
  float unit_[2];   // u
  float sum_[2];    // this lane's part of sum 2^(x - u)
};

}  // namespace fireq::sm90
