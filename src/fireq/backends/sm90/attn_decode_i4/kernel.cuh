// Decode attention over the paged INT4 cache: split-KV, one launch, deterministic.
//
// Eight warps compute, a ninth loads: it walks the CTA's piece of the line of pages (schedule.cuh)
// and copies each page's block of one head into a ring. Page i of the piece goes to warp i % 8.
// Where a segment ends, the eight warps' sums are combined through shared memory; a segment that
// other CTAs share goes to the workspace, and the last CTA to arrive adds the parts in order.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/schedule.cuh"
#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

inline constexpr int kDecodeComputeThreads = kDecodeWarps * 32;
inline constexpr int kDecodeThreads = kDecodeComputeThreads + 128;  // whole warpgroups: setmaxnreg

template <int kDim, int kTiles, class Probs>
class DecodeKernel {
 public:
  static constexpr int kRows = 8 * kTiles;
  static constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
  static constexpr int kStageBytes = static_cast<int>(kLayout.head_bytes());
  static constexpr int kSumStride = kDim + kDecodePadding;

  __device__ DecodeKernel(const AttnDecodeParams& p, const AttnDecodeShared& shared, uint8_t* base)
      : p_(p),
        ring_(base),
        sums_(reinterpret_cast<float*>(base + shared.sums)),
        stats_(reinterpret_cast<float2*>(base + shared.stats)),
        full_(reinterpret_cast<Mbarrier*>(base + shared.barriers)),
        empty_(full_ + kDecodeMaxStages),
        flag_(reinterpret_cast<int32_t*>(base + shared.flag)),
        schedule_(p, reinterpret_cast<int32_t*>(base + shared.prefix)) {}

  __device__ void Run() {
    if (threadIdx.x < 2 * kDecodeMaxStages) {
      MbarrierInit(full_ + threadIdx.x, 1);
      FenceMbarrierInit();
    }
    GridDependencyLaunch();
    schedule_.Prepare(flag_);  // its barriers order the inits too
    if (p_.num_sequences == 0) return;
    begin_ = schedule_.Start(blockIdx.x);
    end_ = schedule_.Start(blockIdx.x + 1);
    if (begin_ == end_) return;
    if (threadIdx.x >= kDecodeComputeThreads) {
      RegistersDecrease<56>();
      if (threadIdx.x < kDecodeComputeThreads + 32) Load();
    } else {
      // 128 x 56 + 256 x 224 registers are what 384 x 168 gave the CTA: asking for more hangs.
      RegistersIncrease<224>();
      Compute();
    }
  }

 private:
  // The loading warp: every lane finds the page of one unit, then they copy one after another.
  __device__ void Load() {
    const int lane = threadIdx.x & 31;
    int stage = 0;
    uint32_t phase = 1;  // the first pass over the ring waits for nobody
    bool waited = false;
    for (int32_t base = begin_; base < end_; base += 32) {
      const int32_t unit = base + lane;
      const uint8_t* source = nullptr;
      bool fresh = false;
      if (unit < end_) {
        const DecodeSegment segment = schedule_.Find(unit);
        const int page = unit - segment.begin;
        const int32_t context = p_.context_len[segment.sequence];
        const int32_t queries =
            p_.query_start[segment.sequence + 1] - p_.query_start[segment.sequence];
        if (page * kTokensPerPage < context) {
          const int64_t number = p_.page_table[int64_t{segment.sequence} * p_.max_pages + page];
          source = p_.pages + number * (int64_t{kStageBytes} * p_.kv_heads) +
                   int64_t{kStageBytes} * segment.head;
        }
        fresh = (page + 1) * kTokensPerPage > context - queries;
      }
      // Pages that this step's own tokens were written into wait for the kernel that wrote them;
      // older ones need not.
      const uint32_t fresh_lanes = __ballot_sync(0xFFFFFFFFu, fresh);
      const int count = end_ - base < 32 ? end_ - base : 32;
      for (int i = 0; i < count; ++i) {
        if (!waited && (fresh_lanes >> i & 1) != 0) {
          GridDependencyWait();
          waited = true;
        }
        MbarrierWait(empty_ + stage, phase);
        if (lane == i) {
          if (source != nullptr) {
            MbarrierArriveExpectTx(full_ + stage, kStageBytes);
            BulkLoad(ring_ + stage * kStageBytes, source, kStageBytes, full_ + stage, kEvictFirst);
          } else {
            MbarrierArrive(full_ + stage);
          }
        }
        __syncwarp();
        if (++stage == p_.stages) {
          stage = 0;
          phase ^= 1;
        }
      }
    }
  }

  using Warp = DecodeWarp<kDim, kTiles, Probs>;

  __device__ void Compute() {
    GridDependencyWait();  // for Q, and before anything is written
    const int warp = threadIdx.x / 32;
    int32_t unit = begin_ + warp;  // this warp's next page
    int stage = warp;
    uint32_t phase = 0;
    int parity = 0;
    for (int32_t at = begin_; at < end_; parity ^= 1) {
      const DecodeSegment segment = schedule_.Find(at);
      const int32_t segment_end = segment.begin + segment.pages;
      const int32_t stop = segment_end < end_ ? segment_end : end_;
      const int32_t context = p_.context_len[segment.sequence];
      Warp tile;
      tile.Reset();
      const int32_t sees_all = LoadQueries(segment, context, tile);
      for (; unit < stop; unit += kDecodeWarps) {
        const int32_t first = (unit - segment.begin) * kTokensPerPage;
        MbarrierWait(full_ + stage, phase);
        const uint8_t* block = ring_ + stage * kStageBytes;
        if (first + kTokensPerPage <= sees_all) {
          tile.template Page<false>(block, first, context);
        } else if (first < context) {
          tile.template Page<true>(block, first, context);
        }
        __syncwarp();
        if ((threadIdx.x & 31) == 0) MbarrierArrive(empty_ + stage);
        stage += kDecodeWarps;
        if (stage >= p_.stages) {
          stage -= p_.stages;
          phase ^= 1;
        }
      }
      Finish(at, stop, tile, stats_ + parity * kDecodeWarps * kDecodeMaxRows);
      at = stop;
    }
  }

  // Returns the number of keys that every row of the tile sees.
  __device__ int32_t LoadQueries(const DecodeSegment& segment, int32_t context, Warp& tile) {
    const int group = p_.num_heads / p_.kv_heads;
    const int32_t first = p_.query_start[segment.sequence];
    const int32_t queries = p_.query_start[segment.sequence + 1] - first;
    const float log2e_over_root =
        kDim == 128 ? 1.4426950408889634f * 0.08838834764831845f : 1.4426950408889634f * 0.125f;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int row = segment.row_tile * kRows + 8 * n + ((threadIdx.x & 31) >> 2);
      const bool valid = row < queries * group;
      const int query = row / group;
      const int64_t index =
          int64_t{first + query} * p_.num_heads + segment.head * group + row % group;
      tile.LoadQuery(n, valid ? p_.q + index * kDim : nullptr,
                     valid ? p_.scale_q[index] * log2e_over_root : 0.0f,
                     valid ? context - queries + query + 1 : context - queries + 1);
    }
    return context - queries + 1;
  }

  // Combines the warps' sums of [at, stop), a part of one segment; `stats` is this part's half.
  __device__ void Finish(int32_t at, int32_t stop, Warp& tile, float2* stats) {
    const DecodeSegment segment = schedule_.Find(at);  // found again: registers are short
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x & 31;
    const int c = lane & 3;
    const bool whole = at == segment.begin && stop == segment.begin + segment.pages;
    const int slot = 2 * static_cast<int>(blockIdx.x) + (at == begin_ ? 0 : 1);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = tile.sum[n][i];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 4);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
        if (lane < 4) {
          stats[warp * kDecodeMaxRows + 8 * n + 2 * c + i] = make_float2(tile.maximum[n][i], sum);
        }
      }
    }
    ComputeBarrier();
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      if (n > 0) ComputeBarrier();  // the sums of the tile before have been read
      WriteSums(n, tile, stats);
      ComputeBarrier();
      AddSums(segment, n, stats, whole, slot);
    }
    if (!whole) Combine(segment);
  }

  // This warp's O^T of tile n, relative to the row's maximum over the eight warps.
  __device__ void WriteSums(int n, const Warp& tile, const float2* stats) {
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x & 31;
    const int r = lane >> 2;
    const int c = lane & 3;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float top = RowMaximum(8 * n + 2 * c + i, stats);
      const float factor = Exp2Approx(tile.maximum[n][i] - top) * (tile.r * (kCodeUnit / 256.0f));
      const float zero = __shfl_sync(0xFFFFFFFFu, tile.zeros[n][i], c);
      float* row = sums_ + (warp * 8 + 2 * c + i) * kSumStride;
#pragma unroll
      for (int j = 0; j < Warp::kSteps; ++j) {
        row[16 * j + r] = (tile.out[n][j][i] - zero) * factor;
        row[16 * j + r + 8] = (tile.out[n][j][2 + i] - zero) * factor;
      }
    }
  }

  static __device__ float RowMaximum(int row, const float2* stats) {
    float top = kNoMaximum;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) top = fmaxf(top, stats[w * kDecodeMaxRows + row].x);
    return top;
  }

  // Four d of one row a thread, over the eight warps in order.
  __device__ void AddSums(const DecodeSegment& segment, int n, const float2* stats, bool whole,
                          int slot) {
    const int row = threadIdx.x / (kDim / 4);
    const int d = threadIdx.x % (kDim / 4) * 4;
    if (row >= 8 || OutputOf(segment, 8 * n + row) < 0) return;
    const float top = RowMaximum(8 * n + row, stats);
    float sum = 0.0f;
    float4 total = {};
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float2 stat = stats[w * kDecodeMaxRows + 8 * n + row];
      sum += stat.y * Exp2Approx(stat.x - top);
      const float4 part = *reinterpret_cast<const float4*>(sums_ + (w * 8 + row) * kSumStride + d);
      total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
    }
    if (whole) {
      Store(segment, 8 * n + row, d, total, sum);
      return;
    }
    *reinterpret_cast<float4*>(PartSums(slot) + (8 * n + row) * kDim + d) = total;
    if (d == 0) PartStats(slot)[8 * n + row] = make_float2(top, sum);
  }

  // Row index [T, H] of a row of the segment's tile, -1 for a row that is not there.
  __device__ int64_t OutputOf(const DecodeSegment& segment, int row) const {
    const int group = p_.num_heads / p_.kv_heads;
    const int32_t first = p_.query_start[segment.sequence];
    const int32_t queries = p_.query_start[segment.sequence + 1] - first;
    const int index = segment.row_tile * kRows + row;
    if (index >= queries * group) return -1;
    return int64_t{first + index / group} * p_.num_heads + segment.head * group + index % group;
  }

  __device__ void Store(const DecodeSegment& segment, int row, int d, float4 total, float sum) {
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;  // no key at all gives zero
    uint2 packed;
    packed.x = FloatsToBf16x2(total.x * inverse, total.y * inverse);
    packed.y = FloatsToBf16x2(total.z * inverse, total.w * inverse);
    *reinterpret_cast<uint2*>(p_.out + OutputOf(segment, row) * kDim + d) = packed;
  }

  // After this CTA's part is in the workspace: the last of the segment's CTAs adds all parts.
  __device__ void Combine(const DecodeSegment& segment) {
    const int first = schedule_.Owner(segment.begin);
    const int last = schedule_.Owner(segment.begin + segment.pages - 1);
    ComputeBarrier();  // every thread has written its part
    if (threadIdx.x == 0) {
      __threadfence();
      flag_[0] = atomicAdd(Counters() + first, 1) == last - first;
      __threadfence();
    }
    ComputeBarrier();
    const bool is_last = flag_[0] != 0;
    ComputeBarrier();  // flag_ may be written again
    if (!is_last) return;
    if (threadIdx.x == 0) Counters()[first] = 0;  // ready for the next launch
    for (int item = threadIdx.x; item < kRows * (kDim / 4); item += kDecodeComputeThreads) {
      const int row = item / (kDim / 4);
      if (OutputOf(segment, row) < 0) continue;
      CombineRow(segment, row, item % (kDim / 4) * 4, first, last);
    }
  }

  __device__ void CombineRow(const DecodeSegment& segment, int row, int d, int first, int last) {
    // Only the first part can lie in its CTA's second slot: the others begin with the CTA.
    const int first_slot = 2 * first + (schedule_.Start(first) >= segment.begin ? 0 : 1);
    float top = kNoMaximum;
    float sum = 0.0f;
    float4 total = {};
    constexpr int kBatch = 8;  // parts whose loads are in flight together
    for (int base = first; base <= last; base += kBatch) {
      float2 stat[kBatch];
      float4 part[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        stat[i] = make_float2(kNoMaximum, 0.0f);
        part[i] = {};
        if (base + i > last) continue;
        const int slot = base + i == first ? first_slot : 2 * (base + i);
        stat[i] = __ldcg(PartStats(slot) + row);
        part[i] = __ldcg(reinterpret_cast<const float4*>(PartSums(slot) + row * kDim + d));
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const float next = fmaxf(top, stat[i].x);
        const float old = Exp2Approx(top - next);
        const float fresh = Exp2Approx(stat[i].x - next);
        top = next;
        sum = sum * old + stat[i].y * fresh;
        total.x = total.x * old + part[i].x * fresh;
        total.y = total.y * old + part[i].y * fresh;
        total.z = total.z * old + part[i].z * fresh;
        total.w = total.w * old + part[i].w * fresh;
      }
    }
    Store(segment, row, d, total, sum);
  }

  static __device__ void ComputeBarrier() { NamedBarrierSync(1, kDecodeComputeThreads); }

  // Workspace: sums [2 G][kDecodeMaxRows][Dh], statistics [2 G][kDecodeMaxRows], counters [G].
  __device__ float* PartSums(int slot) const {
    return p_.workspace + int64_t{slot} * (kDecodeMaxRows * kDim);
  }
  __device__ float2* PartStats(int slot) const {
    return reinterpret_cast<float2*>(PartSums(2 * static_cast<int>(gridDim.x))) +
           slot * kDecodeMaxRows;
  }
  __device__ int32_t* Counters() const {
    return reinterpret_cast<int32_t*>(PartStats(2 * static_cast<int>(gridDim.x)));
  }

  const AttnDecodeParams& p_;
  uint8_t* ring_;
  float* sums_;
  float2* stats_;
  Mbarrier* full_;
  Mbarrier* empty_;
  int32_t* flag_;
  DecodeSchedule schedule_;
  int32_t begin_ = 0;
  int32_t end_ = 0;
};

template <int kDim, int kTiles, class Probs>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    AttnDecodeI4(const __grid_constant__ AttnDecodeParams p,
                 const __grid_constant__ AttnDecodeShared shared) {
  extern __shared__ __align__(128) uint8_t dynamic_shared[];
  DecodeKernel<kDim, kTiles, Probs>(p, shared, dynamic_shared).Run();
}

}  // namespace fireq::sm90
