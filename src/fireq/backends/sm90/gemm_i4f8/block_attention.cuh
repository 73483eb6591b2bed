// Decode attention of one sequence as a link of a chain of blocks (block_kernel.cuh): every CTA has
// a page or two of one KV head, whose CTAs are neighbours. Four warps share a page, each with 16 of
// its 64 keys and then with 32 of its 128 columns of V. Sums of a page go to the CTAs of its head
// word by word, an equal share of the outputs to each, which adds those of all pages in order.
//
// Lanes, fragments and the order of codes are those of attn_decode_i4/warp_tile.cuh, of which a
// warp does one step of four.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/gemm_i4f8/block_params.h"
#include "fireq/backends/sm90/gemm_i4f8/words.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"
#include "fireq/backends/sm90/rope_kv_write/kernel.cuh"

namespace fireq::sm90 {

inline constexpr KvPageLayout kBlockPage{KvGrid::kAsymmetric, 1, kBlockHeadDim};
inline constexpr int kBlockPageBytes = static_cast<int>(kBlockPage.head_bytes());
inline constexpr int kBlockWarps = 16;  // that compute

struct alignas(128) BlockAttentionShared {
  uint8_t slots[kBlockSlots][kBlockPageBytes];
  uint4 queries[4][32];  // of two words of a row: FP16, those of high nibbles times 1/16
  float2 rows[8];        // scale_q log2(e) / sqrt(Dh), sum of the codes
  float maxima[kBlockSlots][4][8];
  float sums[kBlockSlots][4][8];
  float scales[kBlockSlots][4];
  uint2 probs[kBlockSlots][4][32];
  uint4 parts[kBlockWarps][kBlockItems][2];
  uint8_t codes[kBlockHeadDim];
  int32_t context, pages;  // of the sequence
  Mbarrier full;           // pages
  Mbarrier empty;          // have been read
};
static_assert(kBlockPageBytes % 128 == 0);

// One warp's vector of a head, as rope_kv_write makes it; neither a norm nor a Hadamard transform.
class BlockVector : RopeKvWriter<kBlockHeadDim, RopeRuns::kFewShort> {
  using Base = RopeKvWriter<kBlockHeadDim, RopeRuns::kFewShort>;
  static_assert(kLanes == 32 && kPairs == 2);

 public:
  __device__ __forceinline__ BlockVector(const RopeKvWriteParams& p, uint8_t* codes,
                                         int32_t position)
      : Base(p, codes, nullptr, static_cast<int>(threadIdx.x & 31)) {
    active_ = true;
    position_ = position;
  }
  // `words`: the vector, two values each.
  __device__ __forceinline__ void Await(const uint32_t* words) {
    uint32_t low, high;
    do {
      low = LoadRelaxed(words + lane_);
      high = LoadRelaxed(words + kBlockHeadDim / 4 + lane_);
    } while (low == 0 || high == 0);
    __syncwarp();
    fetched_[0].words[0] = OfWord(low);
    fetched_[1].words[0] = OfWord(high);
    Unpack();
  }
  __device__ __forceinline__ void PrepareTurn() { LoadRotation(); }
  // `factors` and `shift` of the KV head, or null.
  __device__ __forceinline__ void Turn(const float* factors, const float* shift) {
    TurnPairs();
    if (factors != nullptr) With(factors, std::multiplies());
    if (shift != nullptr) With(shift, std::minus());
  }

  // Row `row` of the queries.
  __device__ __forceinline__ void PutQuery(int row, BlockAttentionShared& shared) const {
    const TokenScale scale = MakeTokenScale(AbsMax());
    const uint32_t codes = FloatsToE4M3x4(x_[0] * scale.inv_scale, x_[1] * scale.inv_scale,
                                          x_[2] * scale.inv_scale, x_[3] * scale.inv_scale);
    const uint32_t kSixteenth = 0x2C002C00u;  // FP16 1/16, twice
    const int run = lane_ >> 3 & 1;           // of 16 values, of two: high nibbles
    const int word = lane_ >> 1 & 3;
    float total = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t pair = E4M3x2ToHalf2(static_cast<uint16_t>(codes >> 16 * half));
      const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&pair));
      total += f.x + f.y;
      if (run != 0) pair = MultiplyHalf2(pair, kSixteenth);
      const int c = (lane_ >> 4) + 2 * half;
      auto* to = reinterpret_cast<uint16_t*>(&shared.queries[word][4 * row + c]);
      to[2 * run + (lane_ & 1)] = static_cast<uint16_t>(pair);
      to[2 * (2 + run) + (lane_ & 1)] = static_cast<uint16_t>(pair >> 16);
    }
    total = Reduce(total, [](float a, float b) { return a + b; });
    constexpr float kLog2EOverRoot = 1.4426950408889634f * 0.08838834764831845f;
    if (lane_ == 0) shared.rows[row] = make_float2(scale.scale * kLog2EOverRoot, total);
  }

  // Into the page's block in shared memory, of which every other token keeps its bits.
  __device__ __forceinline__ void PutKey(uint8_t* block) {
    uint32_t words[kValues / 4];
    const KvScale scale = Quantize(words);
    Base::PutKey(block, words, scale);
    __syncwarp();
  }
  __device__ __forceinline__ void PutValue(uint8_t* block) {
    uint32_t words[kValues / 4];
    const KvScale scale = Quantize(words);
    LoadNeighbours(block);
    WriteScale(block, kBlockPage.v_scale_offset(), kBlockPage.v_zero_offset(), scale);
    ReplaceNibbles(block, words);
    __syncwarp();
  }
  // Its bytes from one block to another.
  __device__ __forceinline__ void CopyKey(const uint8_t* from, uint8_t* to) const {
    const int at = position_ % kTokensPerPage;
    if (lane_ < kBlockHeadDim / 8)
      CopyBytes<uint32_t>(at * (kBlockHeadDim / 2) + 4 * lane_, from, to);
    if (lane_ == 0) {
      CopyBytes<bf16_t>(kBlockPage.k_scale_offset() + 2 * at, from, to);
      CopyBytes<uint8_t>(kBlockPage.k_zero_offset() + at, from, to);
    }
  }
  __device__ __forceinline__ void CopyValue(const uint8_t* from, uint8_t* to) const {
    const int at = position_ % kTokensPerPage;
#pragma unroll
    for (int i = 0; i < kValues; ++i) CopyBytes<uint8_t>(VByte(i), from, to);
    if (lane_ == 0) {
      CopyBytes<bf16_t>(kBlockPage.v_scale_offset() + 2 * at, from, to);
      CopyBytes<uint8_t>(kBlockPage.v_zero_offset() + at, from, to);
    }
  }

 private:
  template <class T>
  static __device__ __forceinline__ void CopyBytes(int64_t at, const uint8_t* from, uint8_t* to) {
    *reinterpret_cast<T*>(to + at) = *reinterpret_cast<const T*>(from + at);
  }
};

struct BlockAttention {
  static constexpr int kThreads = 32 * kBlockWarps;
  static constexpr uint32_t kBarrier = 1;      // of all, as the GEMMs have it
  static constexpr uint32_t kTeamBarrier = 2;  // and the next ones, of four warps
  static constexpr int kKeyWarp = 8, kValueWarp = 9;

  const BlockHeads& heads;
  BlockAttentionShared& shared;
  int head, index;  // KV head; of its CTAs
  bool active;
  int32_t context, pages;

  __device__ __forceinline__ BlockAttention(const BlockHeads& h, BlockAttentionShared& s)
      : heads(h), shared(s) {
    const int cta = static_cast<int>(blockIdx.x);
    head = cta / heads.ctas;
    index = cta - head * heads.ctas;
    active = head < heads.kv_heads;
    context = shared.context;
    pages = shared.pages;
  }
  // One thread, before the others make theirs.
  static __device__ __forceinline__ void Prepare(const BlockHeads& heads,
                                                 BlockAttentionShared& shared) {
    const int32_t first = LoadGlobalNow(heads.query_start);
    const int32_t next = LoadGlobalNow(heads.query_start + 1);
    const int32_t tokens = LoadGlobalNow(heads.context_len);
    shared.context = next > first ? tokens : 0;
    shared.pages = (shared.context + kTokensPerPage - 1) / kTokensPerPage;
  }
  // In the CTA's slot, negative: none. Counted from the last page, which is the first CTA's, in the
  // order of the CTAs and then back: who has the step's token has another page as late as may be.
  __device__ __forceinline__ int PageOf(int slot) const {
    return pages - 1 - (slot == 0 ? index : kBlockSlots * heads.ctas - 1 - index);
  }
  __device__ __forceinline__ int PagesHere() const {
    return active ? (PageOf(0) >= 0) + (PageOf(1) >= 0) : 0;
  }
  __device__ __forceinline__ int Items() const { return 64 << heads.column_shift; }  // of a page
  __device__ __forceinline__ uint4* PartOf(int page) const {
    return heads.parts + (head * (kBlockSlots * heads.ctas) + page) * (2 * Items());
  }

  // One thread, for a block behind `before` others: its pages of the cache.
  __device__ __forceinline__ void CopyPages(const RopeKvWriteParams& rope, uint32_t before) {
    const int count = PagesHere();
    if (count == 0) return;
    MbarrierWait(&shared.empty, (before & 1) ^ 1);
    MbarrierArriveExpectTx(&shared.full, static_cast<uint32_t>(count) * kBlockPageBytes);
    for (int slot = 0; slot < count; ++slot) {
      const int32_t number = LoadGlobalNow(rope.page_table + PageOf(slot));
      BulkLoad(shared.slots[slot],
               rope.pages + int64_t{kBlockPageBytes} * (int64_t{number} * heads.kv_heads + head),
               kBlockPageBytes, &shared.full, kEvictFirst);
    }
  }

  // All threads that compute. `qkv` [H + 2 Hk][Dh / 2] and `out` [H][Dh / 2] are words; `parity`:
  // of the launch's attentions before.
  __device__ __forceinline__ void Attend(const BlockAttentionParams& p, const uint32_t* qkv,
                                         uint32_t* out, uint32_t parity) {
    if (!active) return;
    const int warp = static_cast<int>(threadIdx.x / 32);
    const bool writes = index == 0 && pages > 0;
    if (warp < heads.group) {
      BlockVector vector(p.rope, nullptr, context - 1);
      vector.PrepareTurn();
      vector.Await(qkv + (head * heads.group + warp) * (kBlockHeadDim / 2));
      vector.Turn(p.rope.crs_q == nullptr ? nullptr : p.rope.crs_q + head * kBlockHeadDim, nullptr);
      vector.PutQuery(warp, shared);
    } else if (writes && (warp == kKeyWarp || warp == kValueWarp)) {
      const bool key = warp == kKeyWarp;
      uint8_t* const block = shared.slots[0];
      BlockVector vector(p.rope, shared.codes, context - 1);
      vector.PrepareTurn();
      const int first = heads.kv_heads * (heads.group + (key ? 0 : 1));
      vector.Await(qkv + (first + head) * (kBlockHeadDim / 2));
      const int32_t number = LoadGlobalNow(p.rope.page_table + pages - 1);
      uint8_t* const to =
          p.rope.pages + int64_t{kBlockPageBytes} * (int64_t{number} * heads.kv_heads + head);
      if (key) {
        vector.Turn(
            p.rope.crs_k == nullptr ? nullptr : p.rope.crs_k + head * kBlockHeadDim,
            p.rope.key_shift == nullptr ? nullptr : p.rope.key_shift + head * kBlockHeadDim);
        MbarrierWait(&shared.full, parity);
        vector.PutKey(block);
        vector.CopyKey(block, to);
      } else {
        MbarrierWait(&shared.full, parity);
        vector.PutValue(block);
        vector.CopyValue(block, to);
      }
      FenceProxyAsync();  // the next block's pages come by the copy engine
    }
    NamedBarrierSync(kBarrier, kThreads);  // queries and the token are there
    const int team = warp / 4;
    if (team < kBlockSlots && PageOf(team) >= 0) {
      MbarrierWait(&shared.full, parity);
      Page(team, warp % 4, PageOf(team));
    }
    Reduce(p, out);
  }

 private:
  static __device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x & 31); }
  static __device__ __forceinline__ float MaxOverRows(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 4));
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 8));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 16));
  }
  static __device__ __forceinline__ float SumOverRows(float x) {
    x += __shfl_xor_sync(0xFFFFFFFFu, x, 4);
    x += __shfl_xor_sync(0xFFFFFFFFu, x, 8);
    return x + __shfl_xor_sync(0xFFFFFFFFu, x, 16);
  }
  static __device__ __forceinline__ float LoadBf16(const uint8_t* from) {
    return __uint_as_float(uint32_t{*reinterpret_cast<const uint16_t*>(from)} << 16);
  }

  // One warp of the four that have the page in slot `team`, number `page` of the sequence.
  __device__ __forceinline__ void Page(int team, int step, int page) {
    const uint8_t* const block = shared.slots[team];
    const int lane = Lane(), r = lane >> 2, c = lane & 3;
    // Of this warp's 16 keys the lane's two: `token` and 8 tokens on.
    const int token = 16 * (r >> 1) + 2 * (r & 1) + 4 * (step >> 1) + (step & 1);
    float score[4] = {};
    {
      const uint8_t* const keys = block + token * (kBlockHeadDim / 2) + c * (kBlockHeadDim / 8);
      const uint4 a = *reinterpret_cast<const uint4*>(keys);
      const uint4 b = *reinterpret_cast<const uint4*>(keys + 8 * (kBlockHeadDim / 2));
      const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 q = shared.queries[i][lane];
        MmaF16(score, x[i] & kLowNibbles, y[i] & kLowNibbles, x[i] & kHighNibbles,
               y[i] & kHighNibbles, q.x, q.y);
        MmaF16(score, x[i] >> 8 & kLowNibbles, y[i] >> 8 & kLowNibbles, x[i] >> 8 & kHighNibbles,
               y[i] >> 8 & kHighNibbles, q.z, q.w);
      }
    }
    float value_scale[2];
    float top[2] = {-INFINITY, -INFINITY};
    float top_scale = 0.0f;
    const float2 rows[2] = {shared.rows[2 * c], shared.rows[2 * c + 1]};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int at = token + 8 * h;
      const bool there = page * kTokensPerPage + at < context;
      const float scale = LoadBf16(block + kBlockPage.k_scale_offset() + 2 * at);
      const float zero = static_cast<float>(block[kBlockPage.k_zero_offset() + at]);
      value_scale[h] = there ? LoadBf16(block + kBlockPage.v_scale_offset() + 2 * at) : 0.0f;
      top_scale = fmaxf(top_scale, fabsf(value_scale[h]));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = score[2 * h + i];
        x = scale * (rows[i].x * kCodeUnit * x - zero * (rows[i].x * rows[i].y));
        if (!there) x = -INFINITY;
        top[i] = fmaxf(top[i], x);
      }
    }
    top[0] = MaxOverRows(top[0]);
    top[1] = MaxOverRows(top[1]);
    top_scale = MaxOverRows(top_scale);
    if (r == 0) {
      shared.maxima[team][step][2 * c] = top[0];
      shared.maxima[team][step][2 * c + 1] = top[1];
      if (c == 0) shared.scales[team][step] = top_scale;
    }
    TeamBarrier(team);
    float maximum[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float x = shared.maxima[team][0][2 * c + i];
#pragma unroll
      for (int j = 1; j < 4; ++j) x = fmaxf(x, shared.maxima[team][j][2 * c + i]);
      maximum[i] = fmaxf(kNoMaximum, ceilf(x));
    }
    top_scale = fmaxf(fmaxf(shared.scales[team][0], shared.scales[team][1]),
                      fmaxf(shared.scales[team][2], shared.scales[team][3]));
    const float unit_of_values = fmaxf(kSmallestR, PowerOfTwoAbove(top_scale));
    const float unit = 256.0f * InversePowerOfTwo(unit_of_values);
    const uint32_t kSixteenth = 0x2C002C00u;
    float sum[2] = {};
    uint32_t mine[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float weight = value_scale[h] * unit;
      const float low = Exp2Approx(score[2 * h] - maximum[0]);
      const float high = Exp2Approx(score[2 * h + 1] - maximum[1]);
      sum[0] += low;
      sum[1] += high;
      uint32_t pair = ProbsE4M3::Round(low * weight, high * weight);
      if (h == 1) pair = MultiplyHalf2(pair, kSixteenth);
      mine[h] = TransposeMatrix(pair);
    }
    shared.probs[team][step][lane] = make_uint2(mine[0], mine[1]);
    sum[0] = SumOverRows(sum[0]);
    sum[1] = SumOverRows(sum[1]);
    if (r == 0) {
      shared.sums[team][step][2 * c] = sum[0];
      shared.sums[team][step][2 * c + 1] = sum[1];
    }
    TeamBarrier(team);
    uint2 p[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) p[j] = shared.probs[team][j][lane];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] = shared.sums[team][0][2 * c + i];
#pragma unroll
      for (int j = 1; j < 4; ++j) sum[i] += shared.sums[team][j][2 * c + i];
    }
    const uint8_t* const values = block + kBlockPage.v_offset() + c * kBlockHeadDim * kVGroupBytes;
    float out[2][4] = {};
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int d = 16 * (2 * step + t) + r;
      const uint2 a = *reinterpret_cast<const uint2*>(values + d * kVGroupBytes);
      const uint2 b = *reinterpret_cast<const uint2*>(values + (d + 8) * kVGroupBytes);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t x = (j < 2 ? a.x : a.y) >> (j % 2 * 8);
        const uint32_t y = (j < 2 ? b.x : b.y) >> (j % 2 * 8);
        MmaF16(out[t], x & kLowNibbles, y & kLowNibbles, x & kHighNibbles, y & kHighNibbles, p[j].x,
               p[j].y);
      }
    }
    float zeros[4] = {};
    uint4 z = {};
    if (r == 0) z = *reinterpret_cast<const uint4*>(block + kBlockPage.v_zero_offset() + 16 * c);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t x = ((j < 2 ? z.x : z.y) >> (j % 2 * 8)) & 0x00FF00FFu;
      const uint32_t y = ((j < 2 ? z.z : z.w) >> (j % 2 * 8)) & 0x00FF00FFu;
      MmaF16(zeros, x, 0, y << 4, 0, p[j].x, p[j].y);
    }
    const float zero[2] = {__shfl_sync(0xFFFFFFFFu, zeros[0], c),
                           __shfl_sync(0xFFFFFFFFu, zeros[1], c)};
    const float factor = unit_of_values * (kCodeUnit / 256.0f);
    if (c >> heads.column_shift != 0) return;  // rows that are not there
    uint4* const part = PartOf(page);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int item = (8 * (2 * step + t) + r) << heads.column_shift | c;
      StoreRelaxed128(
          part + 2 * item,
          {AsWord((out[t][0] - zero[0]) * factor), AsWord((out[t][1] - zero[1]) * factor),
           AsWord((out[t][2] - zero[0]) * factor), AsWord((out[t][3] - zero[1]) * factor)});
      StoreRelaxed128(part + 2 * item + 1,
                      {AsWord(maximum[0]), AsWord(sum[0]), AsWord(maximum[1]), AsWord(sum[1])});
    }
  }
  static __device__ __forceinline__ void TeamBarrier(int team) {
    NamedBarrierSync(kTeamBarrier + static_cast<uint32_t>(team), 128);
  }

  // An item: of an even row and the next one, column d and 8 columns on. Relative to maxima.
  struct Item {
    float out[4] = {};  // [column][row]
    float maximum[2] = {kNoMaximum, kNoMaximum};
    float sum[2] = {};

    __device__ __forceinline__ void Set(const uint4& o, const uint4& stats) {
      out[0] = FloatOfWord(o.x), out[1] = FloatOfWord(o.y);
      out[2] = FloatOfWord(o.z), out[3] = FloatOfWord(o.w);
      maximum[0] = FloatOfWord(stats.x), sum[0] = FloatOfWord(stats.y);
      maximum[1] = FloatOfWord(stats.z), sum[1] = FloatOfWord(stats.w);
    }
    __device__ __forceinline__ void AddLane(int step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float theirs = __shfl_xor_sync(0xFFFFFFFFu, maximum[i], step);
        const float next = fmaxf(maximum[i], theirs);
        const float factor = Exp2Approx(maximum[i] - next), other = Exp2Approx(theirs - next);
        maximum[i] = next;
        sum[i] = sum[i] * factor + __shfl_xor_sync(0xFFFFFFFFu, sum[i], step) * other;
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          float& x = out[2 * column + i];
          x = x * factor + __shfl_xor_sync(0xFFFFFFFFu, x, step) * other;
        }
      }
    }
  };

  // This CTA's share of the head's outputs, of all pages' sums.
  __device__ __forceinline__ void Reduce(const BlockAttentionParams& p, uint32_t* out) {
    const int lane = Lane(), warp = static_cast<int>(threadIdx.x / 32);
    const int page = static_cast<int>(threadIdx.x) / kBlockItems;
    const int first = index * kBlockItems;  // item
    if (4 * warp < pages) {
      Item item;
      const int at = first + lane % kBlockItems;
      if (page < pages && at < Items()) {
        uint4* const part = PartOf(page) + 2 * at;
        uint4 o, stats;
        do {
          o = LoadRelaxed128(part);
          stats = LoadRelaxed128(part + 1);
        } while (LacksAWord(o) || LacksAWord(stats));
        StoreRelaxed128(part, {0, 0, 0, 0});
        StoreRelaxed128(part + 1, {0, 0, 0, 0});
        item.Set(o, stats);
      }
      __syncwarp();
      item.AddLane(8);
      item.AddLane(16);
      if (lane < kBlockItems) {
        uint4* const to = shared.parts[warp][lane];
        to[0] = {__float_as_uint(item.out[0]), __float_as_uint(item.out[1]),
                 __float_as_uint(item.out[2]), __float_as_uint(item.out[3])};
        to[1] = {__float_as_uint(item.maximum[0]), __float_as_uint(item.sum[0]),
                 __float_as_uint(item.maximum[1]), __float_as_uint(item.sum[1])};
      }
    }
    NamedBarrierSync(kBarrier, kThreads);
    if (threadIdx.x == 0) MbarrierArrive(&shared.empty);
    if (warp != 0 || first >= Items()) return;
    const int k = lane / 4, e = lane % 4, row = e & 1;
    const auto* parts = reinterpret_cast<const float*>(shared.parts[0][k]);
    constexpr int kStride = sizeof(shared.parts[0]) / sizeof(float);
    const int count = (pages + 3) / 4;
    float top = kNoMaximum;
    for (int w = 0; w < count; ++w) top = fmaxf(top, parts[w * kStride + 4 + 2 * row]);
    float total = 0.0f, sum = 0.0f;
    for (int w = 0; w < count; ++w) {
      const float factor = Exp2Approx(parts[w * kStride + 4 + 2 * row] - top);
      total += parts[w * kStride + e] * factor;
      sum += parts[w * kStride + 5 + 2 * row] * factor;
    }
    const float value = sum == 0.0f ? 0.0f : total / sum;
    const float next = __shfl_down_sync(0xFFFFFFFFu, value, 4 << heads.column_shift);
    const int item = first + k;
    const int c = item & ((1 << heads.column_shift) - 1), r = item >> heads.column_shift;
    const int n = 2 * c + row, d = 16 * (r / 8) + r % 8 + 8 * (e >> 1);
    if (r % 2 != 0 || n >= heads.group || item >= Items()) return;
    const int place = ((head * heads.group + n) * kBlockHeadDim + d) / 2;
    const uint32_t word = FloatsToBf16x2(value, next);
    StoreRelaxed(out + place, AsWord(word));
    reinterpret_cast<uint32_t*>(p.out)[place] = word;
  }
};

}  // namespace fireq::sm90
