// A consumer warpgroup: 64 query rows against the tiles of keys, 128 at a time: Q K, exponentials,
// P V, one after another. What hides the latencies of each are the two other warpgroups, which take
// turns at the tensor cores: while one multiplies, the others compute exponentials.
//
// Units. With x the score in base 2 and r the page's power of two >= |s_v|, P' is
// E4M3(2^(x - u) 256 s_v): u, an integer per row, is the served arithmetic's m + log2 r up to a
// difference that cancels in O = sum P' (q - z) / (256 sum 2^(x - u)). A row's u grows only when a
// probability would leave E4M3's range, and then by a margin more than it must.
//
// Most tiles take one pass from products to P', with the units as they are, and probabilities in
// fours show afterwards whether one was too high for them: then, and in a first tile that a row
// sees in part, the careful path takes two. So do the warpgroup's tiles after one in which a warp
// raised a unit, into the pieces that follow, until so many have raised none: scores that are wide
// raise many, and to find that out afterwards costs the scores again. There the exponents
// x + log2 r - u show what is too high without their maximum being known: only such an exponent is
// positive, and positive floats compare as integers, three at a time.
//
// The tensor cores add FP8 products with 13 bits below the largest, so the sums of P V are added in
// FP32 after every tile.
//
// Registers: 64 of scores or of a tile's P V, 64 of sums, 16 of P, and of 152 that is nearly all.
// What a lane knows of its rows therefore lies in shared memory and is read anew with every tile.
//
// Lane l of warp w holds rows 16 w + l / 4 and + 8 (index h below), c = l % 4. P stays in
// registers as the A operand. With RowOfKey's order of K's rows, register 4 j + 2 h + i of S is,
// for j = 2 b + e / 2 and i = e % 2, the score of token 16 b + 4 c + e.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/fragment.cuh"
#include "fireq/backends/sm90/attn_prefill/output.cuh"
#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mma.cuh"
#include "fireq/backends/sm90/ptx/wgmma.cuh"

namespace fireq::sm90 {

// kTerms E4M3 numbers a P': 1 is the served arithmetic, 2 keeps 8 bits of it.
template <int kDim, int kTerms, PrefillSource kSource>
class PrefillConsumer : PrefillFragment {
 public:
  using Shared = PrefillShared<kDim, kSource>;

  // `group` is the warpgroup's number, from a shuffle, as everything that control flow around wgmma
  // depends on: it must be provably uniform, or ptxas serialises wgmma (C7520).
  __device__ PrefillConsumer(const AttnPrefillKernelParams& p, Shared& shared, int group)
      : p_(p), shared_(shared), group_(group), c_(Thread() % 4) {}

  __device__ __forceinline__ void Run() {
    if (group_ == kPrefillConsumers - 1) PassTurn();
    for (uint32_t turn = 0; WaitPiece(turn); ++turn) {
      buffer_ = static_cast<int>(turn & 1);
      Start();
      MbarrierWait(&shared_.queries_full[buffer_], turn >> 1 & 1);
      FenceProxyAsync();  // the copies of Q before the tensor cores' reads
      const int32_t tiles = Uniform(Piece().group_tiles[group_]);
      Attend(tiles);
      for (int32_t i = tiles; i < Piece().tiles; ++i) Skip();
      Store();
      __syncwarp();
      if (threadIdx.x % 32 == 0) MbarrierArrive(&shared_.piece_empty[turn & 1]);
    }
    if (group_ == 0) TakeTurn();  // which nobody would take else
  }

 private:
  static constexpr int kQuerySteps = kDim / 32;
  static constexpr int kChannels = kDim / kTerms;  // of V that a launch multiplies
  static constexpr int kValues = kChannels / 2;    // sums of P V
  static constexpr int kBlocks = kPrefillKeys / 16;
  static constexpr float kHighest = 0.75f;  // exponent: P' <= 256 2^0.75 < 448
  // How much more than it must a unit is raised by. Every binade is one that small probabilities
  // lose below, so the wide margin, with which normal scores nearly never need a higher unit again,
  // is only for rows whose first page's keys are alike: the maxima of the four lanes within kAlike.
  static constexpr float kMargin = 1.0f;
  static constexpr float kWideMargin = 4.0f;
  static constexpr float kAlike = 5.0f;
  // Blocks of 16 keys between whose probabilities and the loads of whose scales ptxas may not look
  // ahead in OnePass: fewer wait, more spill.
  static constexpr int kScoreLag = 6;
  static constexpr int kValueLag = 2;
  static constexpr int kExactKeys = 32;
  static constexpr int kExactAhead = 8;          // loads of eight keys in front of their products
  static constexpr int kCarefulTiles = 16;       // in two passes behind a raise
  static constexpr int32_t kNever = 0x7FFFFFFE;  // bits of no number, nor of a NaN that is computed

  // This lane's row of the CTA's, for h = 0.
  static __device__ __forceinline__ uint32_t LaneRow() {
    const uint32_t thread = Thread();
    return thread / 32 * 16 + thread % 32 / 4;
  }
  __device__ __forceinline__ PrefillRow& Row(int h) const {
    return shared_.rows[buffer_][LaneRow() + 8 * h];
  }

  __device__ __forceinline__ PrefillLane& Lane() const {
    return shared_.lanes[group_][Thread() % 128];
  }

  __device__ __forceinline__ float2& Sums() const { return shared_.sums[group_][Thread() % 128]; }

  __device__ __forceinline__ const PrefillPiece& Piece() const { return shared_.piece[buffer_]; }

  // Until a turn's piece is known; false when there is none.
  __device__ __forceinline__ bool WaitPiece(uint32_t turn) {
    MbarrierWait(&shared_.piece_full[turn & 1], turn >> 1 & 1);
    return Uniform(shared_.piece[turn & 1].tiles) >= 0;
  }
  __device__ __forceinline__ void Start() {
    Lane() = {{Row(0).scale, Row(1).scale}, {0.0f, 0.0f}};
    Sums() = make_float2(0.0f, 0.0f);
    if (Uniform(Piece().fresh) != 0) careful_tiles_ = 0;
    // All have read what was written of the piece before, and none writes before the next turn.
    if (Thread() % 128 < 2) shared_.low_units[group_][Thread() % 128] = 0;
#pragma unroll
    for (int i = 0; i < kValues; ++i) out_[i] = 0.0f;
  }

  __device__ __forceinline__ void Attend(int32_t tiles) {
    const int32_t masked = Uniform(Piece().masked_tiles[group_]);
    TakeTurn();
    for (int32_t left = tiles; left > 0; --left) {
      MbarrierWait(&shared_.full[place_.stage], place_.parity);
#pragma unroll 1
      for (int term = 0; term < kTerms; ++term) {
        AddTile(term, left, term == 0 && left == tiles, left <= masked);
      }
      Release(place_.stage);
      place_.Next();
    }
    PassTurn();
  }

  // Term `term` of P' times V of a tile, `left` tiles from the end, added to out_. `masked`: not
  // seen whole by all rows. A second term starts from Q K again: keeping the probabilities would
  // take registers that are not there.
  __device__ __forceinline__ void AddTile(int term, int32_t left, bool first, bool masked) {
    // All tiles take two passes where a row's bits may not depend on the rows beside it: from
    // OnePass a warp goes back for all of its rows.
    const bool whole = kTerms == 1 && !masked && p_.exact_limit != 0;
    bool careful = !whole && (kTerms == 2 || first || p_.exact_limit == 0);
    Probs p;
    {
      Scores s;
      int32_t top[2];
      WgmmaFence();
      MultiplyKeys(s);
      WgmmaCommit();
      PassTurn();
      // Written before the turn that lies between the tiles, so that it does not depend on time.
      if (!first && Uniform(shared_.low_units[group_][(left + 1) & 1]) == left + 1) {
        careful_tiles_ = kCarefulTiles;
      }
      if (careful_tiles_ > 0) {
        careful = true;
        --careful_tiles_;
      }
      WgmmaWait<0>();
      PinRegisters(s);
      const bool done = !careful && (masked ? OnePass<true>(false, left, s, p)
                                            : OnePass<false>(first, left, s, p));
      if (!done) {
        if (!careful) {
          ExactScores<kPrefillKeys>(s);
        } else if (kTerms == 1 && first && Uniform(FirstLimit()) <= p_.exact_limit) {
          ExactScores<kExactKeys>(s);
        }
        Exponents(s, top);
        if (masked) Mask(left, s, top);
        const bool high = max(top[0], top[1]) > __float_as_int(kHighest);
        const bool start = first && careful;
        const bool raise = __any_sync(0xFFFFFFFFu, high);
        if (start || raise) Raise(start, start && whole, top, s);
        if (raise && !start && !masked && Thread() % 32 == 0)
          shared_.low_units[group_][left & 1] = left;
        Probabilities(term, s, p);
      }
    }
    PinRegisters(p);
    TakeTurn();
    float part[kValues];
    WgmmaFence();
    MultiplyValues(p, part);
    WgmmaCommit();
    WgmmaWait<0>();
    PinRegisters(part);
    PinRegisters(p);
#pragma unroll
    for (int i = 0; i < kValues; ++i) out_[i] += part[i];
  }

  // A turn at the tensor cores: P V of one tile and Q K of the next. Every warpgroup takes one for
  // every tile of the piece, and one before the first.
  __device__ __forceinline__ void TakeTurn() const {
    NamedBarrierSync(1 + kPrefillConsumers + static_cast<uint32_t>(group_), 256);
  }
  __device__ __forceinline__ void PassTurn() const {
    const int next = group_ + 1 == kPrefillConsumers ? 0 : group_ + 1;
    NamedBarrierArrive(1 + kPrefillConsumers + static_cast<uint32_t>(next), 256);
  }

  // A tile that only other warpgroups need. It must have been filled before it is given back:
  // else this arrival would count for the phase before.
  __device__ __forceinline__ void Skip() {
    MbarrierWait(&shared_.full[place_.stage], place_.parity);
    Release(place_.stage);
    place_.Next();
    for (int term = 0; term < kTerms; ++term) {
      TakeTurn();
      PassTurn();
    }
  }

  __device__ __forceinline__ void Release(int stage) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) MbarrierArrive(&shared_.empty[stage]);
  }

  __device__ __forceinline__ void MultiplyKeys(Scores& s) {
    const uint8_t* keys = shared_.k[place_.stage][0];
    const uint64_t k = kDim == 128 ? DescriptorSwizzle128(keys) : DescriptorSwizzle64(keys);
    const uint8_t* queries = shared_.q[buffer_][group_];
    const uint64_t q = kDim == 128 ? DescriptorSwizzle128(queries) : DescriptorSwizzle64(queries);
#pragma unroll
    for (int i = 0; i < kQuerySteps; ++i) {
      WgmmaE4M3<kPrefillKeys>::Ss(s, q + 2 * i, k + 2 * i, i > 0);
    }
  }

  // The first of the group's rows sees this many keys.
  __device__ __forceinline__ int32_t FirstLimit() const {
    return shared_.rows[buffer_][64 * group_].limit;
  }

  // The scores of the tile's first kKeys keys again, by products whose sums keep FP32's bits. Sums
  // of Q K with 13 bits turn some roundings of P', each a sixteenth of a row that has no other
  // keys, and those rows are the longest of a prompt's output.
  template <int kKeys>
  __device__ __forceinline__ void ExactScores(Scores& s) {
    const uint32_t lane = Thread() % 32;
    const uint8_t* q = shared_.q[buffer_][group_] + Thread() % 128 / 32 * 16 * kDim;
    const uint8_t* k = shared_.k[place_.stage][0];
    const uint32_t never = Never();
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) s[i] = 0.0f;
#pragma unroll 1
    for (uint32_t chunk = 0; chunk < kDim / 16; ++chunk) {
      uint32_t at = lane / 4 * kDim + 4 * (lane % 4) + 16 * (chunk ^ RowSwizzle<kDim>(lane / 4));
      const uint32_t a = *reinterpret_cast<const uint32_t*>(q + at);
      const uint32_t b = *reinterpret_cast<const uint32_t*>(q + at + 8 * kDim);
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
        if (j >= kExactAhead) at |= __float_as_uint(s[4 * (j - kExactAhead)]) & never;
        const uint32_t x = *reinterpret_cast<const uint32_t*>(k + at + 8 * j * kDim);
        float(&sums)[4] = *reinterpret_cast<float(*)[4]>(&s[4 * j]);
        MmaF16(sums, LowHalf2(a), LowHalf2(b), LowHalf2(a >> 16), LowHalf2(b >> 16), LowHalf2(x),
               LowHalf2(x >> 16));
      }
    }
  }

  __device__ __forceinline__ void MultiplyValues(const Probs& p, float (&part)[kValues]) {
#pragma unroll
    for (int page = 0; page < kPrefillPages; ++page) {
      const uint64_t v = DescriptorSwizzle64(shared_.v[place_.stage][page] +
                                             (kTerms == 1 ? 0 : p_.first_channel * kTokensPerPage));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t* from = p + 8 * page + 4 * half;
        const uint32_t a[4] = {from[0], from[1], from[2], from[3]};
        WgmmaE4M3<kChannels>::Rs(part, a, v + 2 * half, page + half > 0);
      }
    }
  }

  // Products to exponents. `top` is the largest of a row's in this lane if any is positive, and
  // else no positive number (of floats, as integers).
  __device__ __forceinline__ void Exponents(Scores& s, int32_t (&top)[2]) {
    const PrefillLane lane = Lane();
    uint32_t c = c_;
#pragma unroll
    for (int h = 0; h < 2; ++h) top[h] = INT32_MIN;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      // Never true, not of a NaN either, but ptxas must keep these loads behind the scores of the
      // blocks before, and has no registers for them earlier.
      if (b % 2 == 0 && b > 0) c += top[1] == kNever;
      const PrefillScales& scales = shared_.scales[place_.stage][b / 4];
      const float bias[2] = {scales.log_r - lane.unit[0], scales.log_r - lane.unit[1]};
      const float4 score = *reinterpret_cast<const float4*>(scales.score + 16 * (b % 4) + 4 * c);
      const float score_of[4] = {score.x, score.y, score.z, score.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& x = s[Register(b, e, h)];
          x = __fmaf_rn(lane.scale[h], x * score_of[e], bias[h]);
        }
        Highest(s, b, h, top[h]);
      }
    }
  }

  // Key 16 b + 4 c + e of those from `first` on is seen if 16 b + e is less.
  __device__ __forceinline__ int32_t Limit(int h, int32_t first) const {
    return Row(h).limit - first - 4 * static_cast<int32_t>(c_);
  }

  // -infinity for the keys of a tile, `left` tiles from the end, that the row does not see.
  __device__ __forceinline__ void Mask(int32_t left, Scores& s, int32_t (&top)[2]) {
    const int32_t first = (Piece().group_tiles[group_] - left) * kPrefillKeys;
    const int32_t limit[2] = {Limit(0, first), Limit(1, first)};
#pragma unroll
    for (int h = 0; h < 2; ++h) top[h] = INT32_MIN;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (16 * b + e >= limit[h]) s[Register(b, e, h)] = -INFINITY;
        }
        Highest(s, b, h, top[h]);
      }
    }
  }

  // Larger u for the rows that have a `top` too high; with the first tile, whose exponents are
  // those for u = 0, the first u of every row, `whole` where all of the tile's keys are seen.
  __device__ __forceinline__ void Raise(bool first, bool whole, const int32_t (&top)[2],
                                        Scores& s) {
    float by[2];
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float highest = __int_as_float(top[h]);
      if (first) highest = Maximum(s, h);
      float margin = kMargin;
      if (whole) margin = Margin(highest);
      highest = QuadMax(highest);
      const bool raise = highest > (first ? -INFINITY : kHighest);
      by[h] = raise ? ceilf(highest) + margin : 0.0f;
      factor[h] = first ? 1.0f : Exp2Approx(-by[h]);
      Lane().unit[h] += by[h];
    }
    Sums() = make_float2(Sums().x * factor[0], Sums().y * factor[1]);
#pragma unroll
    for (int i = 0; i < kPrefillKeys / 2; ++i) s[i] -= by[i >> 1 & 1];
    if (first) return;  // nothing is in out_ yet
#pragma unroll
    for (int i = 0; i < kValues; ++i) out_[i] *= factor[i >> 1 & 1];
  }

  // Products to P' in one pass, with the units as they are or, in a row's first tile, as its first
  // keys make them. False, and nothing added to the sums, where a probability may be too high for
  // them: of four positive numbers none is larger than their sum. kMasked: of a tile, `left` tiles
  // from the end, that is not seen whole.
  template <bool kMasked>
  __device__ __forceinline__ bool OnePass(bool first, int32_t left, const Scores& s, Probs& p) {
    constexpr float kHighestSum = 448.0f / 256.0f;
    constexpr uint32_t kSign = 0x80000000u;
    if (first) FirstUnits(s);
    const int32_t first_key = kMasked ? (Piece().group_tiles[group_] - left) * kPrefillKeys : 0;
    const int32_t limit[2] = {kMasked ? Limit(0, first_key) : 0, kMasked ? Limit(1, first_key) : 0};
    float total[2] = {};
    int32_t top = 0;
    uint32_t tops[kBlocks];
    uint32_t at = SharedAddress(&shared_.scales[place_.stage][0]) + 16 * c_;
    // Limits before the first scales, or ptxas has no registers for both.
    if (kMasked) at |= static_cast<uint32_t>(limit[0] & limit[1]) & Never();
#pragma unroll
    for (int page = 0; page < kPrefillPages; ++page) {
      const PrefillScales& scales = shared_.scales[place_.stage][page];
      const PrefillLane& lane = Lane();
      const float scale[2] = {lane.scale[0], lane.scale[1]};
      const float bias[2] = {scales.log_r - lane.unit[0], scales.log_r - lane.unit[1]};
      float sum[2];
#pragma unroll
      for (int b = 4 * page; b < 4 * page + 4; ++b) {
        // The bit is never set (not of a NaN either: top is at least 0), but ptxas must keep these
        // loads behind blocks before, having no registers for them earlier.
        const uint32_t offset = page * sizeof(PrefillScales) + 64 * (b % 4);
        const uint32_t score_at = b < kScoreLag ? at : at | (tops[b - kScoreLag] & kSign);
        const uint32_t value_at = b < kValueLag ? at : at | (tops[b - kValueLag] & kSign);
        const uint4 scores = LoadShared128(score_at + offset);
        const uint4 values = LoadShared128(value_at + offset + offsetof(PrefillScales, value));
        const float score[4] = {__uint_as_float(scores.x), __uint_as_float(scores.y),
                                __uint_as_float(scores.z), __uint_as_float(scores.w)};
        const float value[4] = {__uint_as_float(values.x), __uint_as_float(values.y),
                                __uint_as_float(values.z), __uint_as_float(values.w)};
        float four[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float x[4];
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            x[e] = Exp2Approx(__fmaf_rn(scale[h], s[Register(b, e, h)] * score[e], bias[h]));
            if (kMasked && 16 * b + e >= limit[h]) x[e] = 0.0f;
          }
          four[h] = (x[0] + x[1]) + (x[2] + x[3]);
          sum[h] = b % 4 == 0 ? four[h] : sum[h] + four[h];
#pragma unroll
          for (int e = 0; e < 4; ++e) x[e] *= value[e];
          p[2 * b + h] = FloatsToE4M3x4(x[0], x[1], x[2], x[3]);
        }
        top = __vimax3_s32(top, __float_as_int(four[0]), __float_as_int(four[1]));
        tops[b] = static_cast<uint32_t>(top);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) total[h] = __fmaf_rn(sum[h], scales.inverse_r, total[h]);
    }
    if (__any_sync(0xFFFFFFFFu, top > __float_as_int(kHighestSum))) return false;
    const float2 sums = Sums();
    Sums() = make_float2(sums.x + total[0], sums.y + total[1]);
    return true;
  }

  // The rows' first units, from the keys of their first page.
  __device__ __forceinline__ void FirstUnits(const Scores& s) {
    const PrefillScales& scales = shared_.scales[place_.stage][0];
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int b = 0; b < kTokensPerPage / 16; ++b) {
      const float4 score = *reinterpret_cast<const float4*>(scales.score + 16 * b + 4 * c_);
      const float score_of[4] = {score.x, score.y, score.z, score.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          highest[h] = fmaxf(highest[h], Lane().scale[h] * (s[Register(b, e, h)] * score_of[e]));
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float margin = Margin(highest[h]);
      highest[h] = QuadMax(highest[h]);
      Lane().unit[h] = ceilf(highest[h]) + margin + scales.log_r;
    }
  }

  // Exponents of a tile to a term of P'; with the first, adds to the lane's sums.
  __device__ __forceinline__ void Probabilities(int term, const Scores& s, Probs& p) {
    float sum[2] = {};
    const uint32_t c = c_;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const PrefillScales& scales = shared_.scales[place_.stage][b / 4];
      const float inverse_r = scales.inverse_r;
      const float4 value = *reinterpret_cast<const float4*>(scales.value + 16 * (b % 4) + 4 * c);
      const float value_of[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float x[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] = Exp2Approx(s[Register(b, e, h)]);
        sum[h] = __fmaf_rn((x[0] + x[1]) + (x[2] + x[3]), inverse_r, sum[h]);
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] *= value_of[e];
        p[2 * b + h] = FloatsToE4M3x4(x[0], x[1], x[2], x[3]);
        if (kTerms == 2 && term == 1) p[2 * b + h] = Remainder(p[2 * b + h], x);
      }
    }
    if (term == 0) Sums() = make_float2(Sums().x + sum[0], Sums().y + sum[1]);
  }

  // Of a row, by the largest score of each of its lanes.
  static __device__ __forceinline__ float Margin(float highest) {
    return QuadMax(highest) - QuadMin(highest) < kAlike ? kWideMargin : kMargin;
  }

  __device__ __forceinline__ void Store() {
    const float sum[2] = {Sums().x, Sums().y};
    StorePrefillRows<kDim>(shared_.rows[buffer_], sum, out_, shared_.q[buffer_][0],
                           p_.out + (kTerms == 1 ? 0 : p_.first_channel));
  }

  const AttnPrefillKernelParams& p_;
  Shared& shared_;
  const int group_;
  const uint32_t c_;  // lane % 4
  int buffer_ = 0;    // of the piece and its rows
  RingPlace<Shared::kStages> place_;
  int32_t careful_tiles_ = 0;  // still to take two passes
  float out_[kValues];         // sums of P V in units of u
};

}  // namespace fireq::sm90
