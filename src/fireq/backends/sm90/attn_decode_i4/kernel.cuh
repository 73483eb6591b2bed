// Decode attention over the paged INT4 cache: split-KV, one launch, deterministic.
//
// Four warps compute, a fifth loads: it walks the CTA's piece of the line of pages (schedule.cuh)
// and copies each page's block of one head into a ring. Page i of that walk goes to warp i % 4.
// Where a segment ends, the warps' sums are combined through shared memory. Where segments are cut,
// the parts of a cluster's CTAs are sent to its first and added there. A segment that other CTAs
// share beyond that goes to the workspace, and the last of them to arrive adds the parts in order.
// Two CTAs an SM: while one is at a segment's end, the other computes; and where no segment is cut
// evenly, so that a CTA has many, a sixth warp combines and adds while the four compute on, and
// segments that the piece's ends cut come first: what ends last is whole. Where segments may be cut
// the kernel can also do what rope_kv_write does, for one token a sequence: each warp makes its
// queries, and a sixth writes the tokens of the segments that end in the piece (fresh_token.cuh).
// With two tiles of query rows eight warps of one CTA compute: they need 224 registers each.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/attn_decode_i4/fresh_token.cuh"
#include "fireq/backends/sm90/attn_decode_i4/load.cuh"
#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/parts.cuh"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/rotated_query.cuh"
#include "fireq/backends/sm90/attn_decode_i4/schedule.cuh"
#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <int kDim, int kTiles, bool kFinishes, class Probs, class Rope>
class DecodeKernel {
 public:
  static constexpr int kRows = 8 * kTiles;
  static constexpr int kWarps = DecodeWarps(kRows);
  static constexpr int kComputeThreads = kWarps * 32;
  static constexpr bool kWrites = kWritesTokens<Rope>;
  static constexpr bool kSixthWarp = kFinishes || kWrites;
  static_assert(!kFinishes || !kWrites);
  using Loader = DecodeLoader<kDim, kRows, kFinishes, Rope>;
  static constexpr int kStageBytes = Loader::kStageBytes;
  static constexpr int kSumStride = kDim + kDecodePadding;
  static constexpr int kRowBytes = kDim * 4 + 8;  // of a part: sums, maximum and sum of a row

  __device__ DecodeKernel(const AttnDecodeParams& p, const AttnDecodeShared& shared,
                          const Rope& rope, uint8_t* base)
      : p_(p),
        rope_(rope),
        workspace_{p.workspace},
        ring_(base),
        parts_(reinterpret_cast<float*>(base + shared.parts)),
        part_stats_(reinterpret_cast<float2*>(base + shared.part_stats)),
        sums_(reinterpret_cast<float*>(base + shared.sums)),
        stats_(reinterpret_cast<float2*>(base + shared.stats)),
        full_(reinterpret_cast<Mbarrier*>(base + shared.barriers)),
        empty_(full_ + kDecodeMaxStages),
        parts_full_(empty_ + kDecodeMaxStages),
        sums_full_(parts_full_ + 2),
        sums_free_(sums_full_ + 2),
        older_(reinterpret_cast<Mbarrier*>(base + shared.older)),
        codes_(base + shared.codes),
        table_(reinterpret_cast<int32_t*>(base + shared.table)),
        flag_(reinterpret_cast<int32_t*>(base + shared.flag)),
        piece_(*reinterpret_cast<DecodePiece*>(flag_ + 4)),
        schedule_(p, base + shared.prefix, base + shared.extra) {}

  __device__ void Run() {
    GridDependencyLaunch();
    if (p_.num_sequences == 0) return;
    const bool loads = threadIdx.x / 32 == kWarps;
    const bool sixth = kSixthWarp && threadIdx.x / 32 == kWarps + 1;
    if (loads) schedule_.Prepare(kWarps, piece_);
    if (sixth) PrepareSixthWarp();
    if (threadIdx.x < kComputeThreads) {
      const int32_t page = Loader::GuessPage(p_);
      InitBarriers();
      if (p_.cuts > 0) table_[threadIdx.x] = page;
    }
    __syncthreads();
    if (p_.cluster > 1) ClusterArriveRelaxed();  // this CTA's barriers may be used
    if (piece_.begin == piece_.end) return;
    if (threadIdx.x < kComputeThreads) {
      // 128 x 56 + 256 x 224 registers are what 384 x 168 gave the CTA: asking for more hangs.
      if constexpr (kWarps == 8) RegistersIncrease<224>();
      Compute();
    } else {
      if constexpr (kWarps == 8) RegistersDecrease<56>();
      if (loads) Loader(p_, piece_, schedule_, ring_, full_, empty_, older_, table_).Run();
      if constexpr (kWrites) {
        if (sixth) WriteTokens();
      } else {
        if (sixth) FinishParts();
      }
    }
  }

 private:
  static_assert(sizeof(DecodePiece) <= 64, "what the plan leaves behind the flags");
  static constexpr uint32_t kComputeBarrier = 1;

  // While the lengths are on their way. An init takes 60 clocks and a warp's are made one after
  // another, so every warp makes its share.
  __device__ void InitBarriers() const {
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int stage = static_cast<int>(threadIdx.x / 32) + lane / 2 * kWarps;
    if (stage < p_.stages) MbarrierInit((lane % 2 == 0 ? full_ : empty_) + stage, 1);
    if (threadIdx.x == 31) MbarrierInit(parts_full_, 1);
    FenceMbarrierInit();
  }

  __device__ DecodeSegment Find(int32_t unit) const {
    return piece_.first_cta >= 0 ? piece_.segment : schedule_.Find(unit);
  }

  using Warp = DecodeWarp<kDim, kTiles, Probs>;

  __device__ void Compute() {
    const int warp = threadIdx.x / 32;
    int32_t at = kFinishes ? piece_.start : piece_.begin;
    int32_t unit = at + warp;  // this warp's next page
    int stage = warp;
    uint32_t phase = 0;
    for (int part = 0;; ++part) {
      const DecodeSegment segment = Find(at);
      if (part == 0) GridDependencyWait();  // for Q, and before anything is written
      const int32_t stop = piece_.StopOf(segment);
      const int32_t context = segment.context;
      Warp tile;
      tile.Reset();
      const int32_t sees_all = context - segment.queries + 1;  // keys that every row sees
      LoadQueries(segment, tile);
      for (; unit < stop; unit += kWarps) {
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
        stage += kWarps;
        if (stage >= p_.stages) {
          stage -= p_.stages;
          phase ^= 1;
        }
      }
      const bool last = IsLastPart(stop);
      if (kFinishes && !last) {
        HandOver(tile, part);
      } else {
        // Two tiles have no registers for a segment that is kept.
        Finish(kTiles == 1 ? segment : Find(at), at, stop, tile, part);
      }
      if (last) break;
      at = kFinishes ? piece_.Behind(stop) : stop;
      if (kFinishes && at != stop) unit -= piece_.end - piece_.begin;
    }
  }

  // Whether nothing is behind the part that ends at `stop`.
  __device__ __forceinline__ bool IsLastPart(int32_t stop) const {
    return kFinishes ? piece_.Behind(stop) == piece_.start : stop >= piece_.end;
  }
  // Of the workspace: a CTA's first segment may be another's, too, and its last.
  __device__ __forceinline__ int SlotOf(int32_t at) const {
    return 2 * static_cast<int>(blockIdx.x) + (at == piece_.begin ? 0 : 1);
  }

  // The warp that writes the tokens of segments that end in the piece.
  __device__ void WriteTokens() {
    GridDependencyWait();  // for qkv, and before anything is written
    FreshTokens<kDim> tokens(p_, rope_, ring_, full_, older_, codes_);
    for (int32_t at = piece_.begin;;) {
      const DecodeSegment segment = Find(at);
      const int32_t stop = segment.begin + segment.pages;
      if (stop <= piece_.end) tokens.Write(segment, stop - 1 - piece_.begin);
      if (stop >= piece_.end) break;
      at = stop;
    }
  }

  // The warp that finishes all of the CTA's parts but the last, which no page is behind.
  __device__ void FinishParts() {
    GridDependencyWait();  // before anything is written
    int32_t at = piece_.start;
    for (int part = 0;; ++part) {
      const DecodeSegment segment = Find(at);
      const int32_t stop = piece_.StopOf(segment);
      if (IsLastPart(stop)) break;
      const int buffer = part % 2;
      const Share share{1, at == segment.begin && stop == segment.begin + segment.pages, false};
      MbarrierWait(sums_full_ + buffer, part / 2 % 2);
      AddSums<32>(segment, 0, share, SlotOf(at), buffer);
      __syncwarp();
      if ((threadIdx.x & 31) == 0) MbarrierArrive(sums_free_ + buffer);
      if (!share.whole) Combine<32>(segment, nullptr);
      at = piece_.Behind(stop);
    }
  }
  // While the lengths are on their way.
  __device__ void PrepareSixthWarp() const {
    const int lane = static_cast<int>(threadIdx.x & 31);
    if constexpr (kFinishes) {
      Loader::PrefetchPages(p_);
      if (lane < 2) {
        MbarrierInit(sums_full_ + lane, kWarps);
        MbarrierInit(sums_free_ + lane, 1);
      }
    }
    if (kWrites && lane < p_.stages) MbarrierInit(older_ + lane, 1);
    FenceMbarrierInit();
  }
  // This warp's sums of the CTA's part number `part`, to the warp that finishes it.
  __device__ __forceinline__ void HandOver(const Warp& tile, int part) {
    WaitForBuffer(part);
    WriteStats(tile, part % 2);
    WriteSums(0, tile, part % 2);
    __syncwarp();
    if ((threadIdx.x & 31) == 0) MbarrierArrive(sums_full_ + part % 2);
  }
  __device__ __forceinline__ void WaitForBuffer(int part) {
    MbarrierWait(sums_free_ + part % 2, part / 2 % 2 ^ 1);  // the first two wait for nobody
  }

  __device__ void LoadQueries(const DecodeSegment& segment, Warp& tile) {
    const float log2e_over_root =
        kDim == 128 ? 1.4426950408889634f * 0.08838834764831845f : 1.4426950408889634f * 0.125f;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int row = 8 * n + ((threadIdx.x & 31) >> 2);
      const int64_t index = RowIndex(segment, row);
      const bool valid = index >= 0;
      const int32_t keys = segment.context - segment.queries + 1;
      if constexpr (kWrites) {  // of one token a sequence
        const RotatedQuery<kDim> query(rope_, valid && segment.context > 0, segment.first_query,
                                       segment.head * p_.group + row, segment.head,
                                       segment.context - 1);
        tile.SetQuery(n, query.low, query.high, valid ? query.scale * log2e_over_root : 0.0f, keys);
        continue;
      }
      tile.LoadQuery(n, valid ? p_.q + index * kDim : nullptr,
                     valid ? p_.scale_q[index] * log2e_over_root : 0.0f,
                     valid ? keys + segment.template QueryOf<kRows>(p_, row) : keys);
    }
  }

  // How many parts of a segment a CTA adds: `cluster`, those of its cluster (1: its own alone);
  // `whole` if these are all. `sends`: it is not the cluster's first, and sends its own there.
  struct Share {
    int32_t cluster;
    bool whole;
    bool sends;
  };
  __device__ Share ShareOf(const DecodeSegment& segment, int32_t at, int32_t stop) const {
    const bool alone = at == segment.begin && stop == segment.begin + segment.pages;
    if (alone || piece_.first_cta < 0 || p_.cluster == 1) return {1, alone, false};
    const int32_t cta = static_cast<int32_t>(blockIdx.x);
    const int32_t count = piece_.Count(segment, segment.begin);
    return {piece_.OfCluster(count, cta, p_.cluster), count <= p_.cluster,
            (cta & (p_.cluster - 1)) != 0};
  }

  // Combines the warps' sums of [at, stop), a part of one segment, the CTA's number `part`.
  __device__ void Finish(const DecodeSegment& segment, int32_t at, int32_t stop, Warp& tile,
                         int part) {
    const int buffer = kFinishes ? part % 2 : 0;
    const Share share = ShareOf(segment, at, stop);
    const int slot = SlotOf(at);
    if (kFinishes) {
      WaitForBuffer(part);
    } else if (at != piece_.begin) {
      ComputeBarrier();  // the segment before has been read
    }
    if (share.sends) ClusterWait();  // for the barriers of the cluster's first
    if (share.cluster > 1 && !share.sends && threadIdx.x == 0) {
      const int32_t there = segment.queries * p_.group - segment.row_tile * kRows;
      MbarrierArriveExpectTx(
          parts_full_, static_cast<uint32_t>((share.cluster - 1) * min(there, kRows) * kRowBytes));
    }
    WriteStats(tile, buffer);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      if (n > 0) ComputeBarrier();  // the tile before has been read
      WriteSums(n, tile, buffer);
      ComputeBarrier();
      AddSums<kComputeThreads>(segment, n, share, slot, buffer);
    }
    if (!share.whole && !share.sends) Combine<kComputeThreads>(segment, flag_ + slot % 2);
  }

  // This warp's maxima and sums of probabilities.
  __device__ __forceinline__ void WriteStats(const Warp& tile, int buffer) {
    const int warp = buffer * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x & 31;
    const int c = lane & 3;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = tile.sum[n][i];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 4);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
        if (lane < 4) {
          stats_[warp * kDecodeMaxRows + 8 * n + 2 * c + i] = make_float2(tile.maximum[n][i], sum);
        }
      }
    }
  }

  // This warp's O^T of tile n, relative to its own maximum.
  __device__ void WriteSums(int n, const Warp& tile, int buffer) {
    const int warp = buffer * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x & 31;
    const int r = lane >> 2;
    const int c = lane & 3;
    const float factor = tile.r * (kCodeUnit / 256.0f);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float zero = __shfl_sync(0xFFFFFFFFu, tile.zeros[n][i], c);
      float* row = sums_ + (warp * 8 + 2 * c + i) * kSumStride;
#pragma unroll
      for (int j = 0; j < Warp::kSteps; ++j) {
        row[16 * j + r] = (tile.out[n][j][i] - zero) * factor;
        row[16 * j + r + 8] = (tile.out[n][j][2 + i] - zero) * factor;
      }
    }
  }

  // Of a warp or of all that compute.
  template <int kThreads>
  static __device__ __forceinline__ int ThreadOf() {
    return static_cast<int>(kThreads == 32 ? threadIdx.x & 31 : threadIdx.x);
  }

  // Four d of one row an item, over the warps in order.
  template <int kThreads>
  __device__ void AddSums(const DecodeSegment& segment, int n, const Share& share, int slot,
                          int buffer) {
    for (int item = ThreadOf<kThreads>(); item < 8 * (kDim / 4); item += kThreads) {
      const int row = 8 * n + item / (kDim / 4);
      const int d = item % (kDim / 4) * 4;
      const int64_t index = RowIndex(segment, row);
      if (index < 0) continue;
      float2 stat[kWarps];
      float top = kNoMaximum;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        stat[w] = stats_[(buffer * kWarps + w) * kDecodeMaxRows + row];
        top = fmaxf(top, stat[w].x);
      }
      float sum = 0.0f;
      float4 total = {};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float* from =
            sums_ + ((buffer * kWarps + w) * 8 + item / (kDim / 4)) * kSumStride + d;
        AddPart(*reinterpret_cast<const float4*>(from), stat[w].y, Exp2Approx(stat[w].x - top),
                total, sum);
      }
      if (share.sends) {
        Send(row, d, total, make_float2(top, sum));
        continue;
      }
      if (share.cluster > 1) AddCluster(row, d, share.cluster - 1, total, top, sum);
      if (share.whole) {
        Store(index, d, total, sum);
      } else {
        *reinterpret_cast<float4*>(workspace_.Sums(slot) + row * kDim + d) = total;
        if (d == 0) workspace_.Stats(slot)[row] = make_float2(top, sum);
      }
    }
  }

  // Four d of this CTA's part to the cluster's first.
  __device__ __forceinline__ void Send(int row, int d, float4 total, float2 stat) const {
    const uint32_t first =
        static_cast<uint32_t>(blockIdx.x) & ~(static_cast<uint32_t>(p_.cluster) - 1);
    const int part = (static_cast<int>(blockIdx.x - first) - 1) * kRows + row;
    const uint32_t barrier = ClusterAddress(parts_full_, 0);
    StoreAsync128(ClusterAddress(parts_ + part * kDim + d, 0), total, barrier);
    if (d == 0) StoreAsync64(ClusterAddress(part_stats_ + part, 0), stat, barrier);
  }
  // `others` CTAs' parts, in order.
  __device__ __forceinline__ void AddCluster(int row, int d, int others, float4& total, float& top,
                                             float& sum) {
    MbarrierWait(parts_full_, 0);
    float next = top;
#pragma unroll
    for (int i = 0; i < kDecodeMaxCluster - 1; ++i) {
      if (i < others) next = fmaxf(next, part_stats_[i * kRows + row].x);
    }
    const float factor = Exp2Approx(top - next);
    sum *= factor;
    total = {total.x * factor, total.y * factor, total.z * factor, total.w * factor};
#pragma unroll
    for (int i = 0; i < kDecodeMaxCluster - 1; ++i) {
      if (i >= others) break;
      const float2 stat = part_stats_[i * kRows + row];
      AddPart(*reinterpret_cast<const float4*>(parts_ + (i * kRows + row) * kDim + d), stat.y,
              Exp2Approx(stat.x - next), total, sum);
    }
    top = next;
  }

  __device__ int64_t RowIndex(const DecodeSegment& segment, int row) const {
    return segment.template RowIndex<kRows>(p_, row);
  }

  __device__ void Store(int64_t index, int d, float4 total, float sum) {
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;  // no key at all gives zero
    uint2 packed;
    packed.x = FloatsToBf16x2(total.x * inverse, total.y * inverse);
    packed.y = FloatsToBf16x2(total.z * inverse, total.w * inverse);
    *reinterpret_cast<uint2*>(p_.out + index * kDim + d) = packed;
  }

  // After this CTA's part is in the workspace: the last of the segment's CTAs adds all parts.
  // `flag` is of this one alone: a CTA shares its first segment and its last.
  template <int kThreads>
  __device__ void Combine(const DecodeSegment& segment, int32_t* flag) {
    const int32_t place = schedule_.PlaceOf(segment), first = piece_.First(place);
    const int step = piece_.first_cta >= 0 ? p_.cluster : 1;  // CTAs from a part to the next
    const int32_t ctas = piece_.Count(segment, place);
    const int count = (ctas + step - 1) >> __popc(static_cast<uint32_t>(step - 1));
    const int first_slot =
        2 * first + (piece_.first_cta >= 0 || piece_.cuts.Begin(first) >= place ? 0 : 1);
    if (!IsLast<kThreads>(workspace_.Counters() + first, count, flag)) return;
    for (int item = ThreadOf<kThreads>(); item < kRows * (kDim / 4); item += kThreads) {
      const int row = item / (kDim / 4);
      const int64_t index = RowIndex(segment, row);
      const int d = item % (kDim / 4) * 4;
      if (index < 0) continue;
      float4 total = {};
      float sum = 0.0f;
      workspace_.Add(row, d, first_slot, count, step, total, sum);
      Store(index, d, total, sum);
    }
  }

  // Whether the last of `count` arrives now, for all threads alike.
  template <int kThreads>
  __device__ __forceinline__ bool IsLast(int32_t* arrived, int32_t count, int32_t* flag) {
    const auto arrive = [&] {
      const bool last = AtomicAddAcqRel(arrived, 1) == count - 1;
      if (last) *arrived = 0;  // ready for the next launch
      return last;
    };
    if constexpr (kThreads == 32) {
      __syncwarp();  // every lane has written its part
      const bool last = __any_sync(0xFFFFFFFFu, ThreadOf<32>() == 0 && arrive());
      __syncwarp();  // what lane 0 has acquired is all lanes'
      return last;
    } else {
      ComputeBarrier();  // every thread has written its part
      if (threadIdx.x == 0) *flag = arrive();
      ComputeBarrier();
      return *flag != 0;
    }
  }

  static __device__ void ComputeBarrier() { NamedBarrierSync(kComputeBarrier, kComputeThreads); }

  const AttnDecodeParams& p_;
  const Rope& rope_;
  const DecodeWorkspace<kDim> workspace_;
  uint8_t* ring_;
  float* parts_;
  float2* part_stats_;
  float* sums_;
  float2* stats_;
  Mbarrier* full_;
  Mbarrier* empty_;
  Mbarrier* parts_full_;
  Mbarrier* sums_full_;
  Mbarrier* sums_free_;
  Mbarrier* older_;
  uint8_t* codes_;
  int32_t* table_;
  int32_t* flag_;
  DecodePiece& piece_;
  DecodeSchedule<kFinishes> schedule_;
};

template <int kDim, int kTiles, bool kFinishes, class Probs, class Rope>
__global__ void __launch_bounds__(DecodeThreads(8 * kTiles, kFinishes || kWritesTokens<Rope>),
                                  DecodeCtasPerSm(8 * kTiles))
    AttnDecodeI4(const __grid_constant__ AttnDecodeParams p,
                 const __grid_constant__ AttnDecodeShared shared,
                 const __grid_constant__ Rope rope) {
  extern __shared__ __align__(128) uint8_t dynamic_shared[];
  DecodeKernel<kDim, kTiles, kFinishes, Probs, Rope>(p, shared, rope, dynamic_shared).Run();
}

}  // namespace fireq::sm90
