// Decode attention over the paged INT4 cache: split-KV, one launch, deterministic.
//
// Four warps compute, a fifth loads: it walks the CTA's piece of the line of pages (schedule.cuh)
// and copies each page's block of one head into a ring. Page i of that walk goes to warp i % 4.
// Where a segment ends, the warps' sums are combined through shared memory. Where segments are cut,
// the parts of a cluster's CTAs are sent to its first and added there. A segment that other CTAs
// share beyond that goes to the workspace, and the last of them to arrive adds the parts in order.
// Two CTAs an SM: while one is at a segment's end, the other computes. (Where no segment is cut
// evenly, so that a CTA has many: listed_kernel.cuh.) Where segments may be cut the kernel can also
// do what rope_kv_write does, for one token a sequence: each warp makes its queries, and a sixth
// writes the tokens of the segments that end in the piece (fresh_token.cuh). With two tiles of
// query rows eight warps of one CTA compute: they need 224 registers each.
#pragma once

#include <cuda_fp16.h>

#include "fireq/backends/sm90/attn_decode_i4/fresh_token.cuh"
#include "fireq/backends/sm90/attn_decode_i4/load.cuh"
#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/rotated_query.cuh"
#include "fireq/backends/sm90/attn_decode_i4/schedule.cuh"
#include "fireq/backends/sm90/attn_decode_i4/sums.cuh"
#include "fireq/backends/sm90/attn_decode_i4/warp_tile.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <int kDim, int kTiles, class Probs, class Rope>
class DecodeKernel {
 public:
  static constexpr int kRows = 8 * kTiles;
  static constexpr int kWarps = DecodeWarps(kRows);
  static constexpr int kComputeThreads = kWarps * 32;
  static constexpr bool kWrites = kWritesTokens<Rope>;
  using Loader = DecodeLoader<kDim, kRows, Rope>;
  static constexpr int kStageBytes = Loader::kStageBytes;
  using Sums = DecodeCtaSums<kDim, kTiles, Probs>;
  using Warp = typename Sums::Warp;
  static constexpr int kRowBytes = kDim * 4 + 8;  // of a part: sums, maximum and sum of a row

  __device__ DecodeKernel(const AttnDecodeParams& p, const AttnDecodeShared& shared,
                          const Rope& rope, uint8_t* base)
      : p_(p),
        rope_(rope),
        ring_(base),
        parts_(reinterpret_cast<float*>(base + shared.parts)),
        part_stats_(reinterpret_cast<float2*>(base + shared.part_stats)),
        full_(reinterpret_cast<Mbarrier*>(base + shared.barriers)),
        empty_(full_ + kDecodeMaxStages),
        parts_full_(empty_ + kDecodeMaxStages),
        older_(reinterpret_cast<Mbarrier*>(base + shared.older)),
        codes_(base + shared.codes),
        table_(reinterpret_cast<int32_t*>(base + shared.table)),
        flag_(reinterpret_cast<int32_t*>(base + shared.flag)),
        piece_(*reinterpret_cast<DecodePiece*>(flag_ + 4)),
        schedule_(p, base + shared.prefix),
        sums_(p, reinterpret_cast<float*>(base + shared.sums),
              reinterpret_cast<float2*>(base + shared.stats)) {}

  __device__ void Run() {
    GridDependencyLaunch();
    if (p_.num_sequences == 0) return;
    const bool loads = threadIdx.x / 32 == kWarps;
    const bool sixth = kWrites && threadIdx.x / 32 == kWarps + 1;
    if (loads) schedule_.Prepare(kWarps, piece_);
    if (sixth) InitOlder();
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
      }
    }
  }

 private:
  static_assert(sizeof(DecodePiece) <= 64, "what the plan leaves behind the flags");

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

  __device__ void Compute() {
    const int warp = threadIdx.x / 32;
    int32_t at = piece_.begin;
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
        if (first < context) tile.Page(block, first, context, first + kTokensPerPage > sees_all);
        __syncwarp();
        if ((threadIdx.x & 31) == 0) MbarrierArrive(empty_ + stage);
        stage += kWarps;
        if (stage >= p_.stages) {
          stage -= p_.stages;
          phase ^= 1;
        }
      }
      // Two tiles have no registers for a segment that is kept.
      Finish(kTiles == 1 ? segment : Find(at), at, stop, tile);
      if (stop >= piece_.end) break;
      at = stop;
    }
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

  // While the lengths are on their way.
  __device__ void InitOlder() const {
    const int lane = static_cast<int>(threadIdx.x & 31);
    if (lane < p_.stages) MbarrierInit(older_ + lane, 1);
    FenceMbarrierInit();
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
    const int32_t count = piece_.Count(segment);
    return {piece_.OfCluster(count, cta, p_.cluster), count <= p_.cluster,
            (cta & (p_.cluster - 1)) != 0};
  }

  // Combines the warps' sums of [at, stop), a part of one segment.
  __device__ void Finish(const DecodeSegment& segment, int32_t at, int32_t stop, Warp& tile) {
    const Share share = ShareOf(segment, at, stop);
    const int slot = SlotOf(at);
    if (at != piece_.begin) Sums::ComputeBarrier();  // the segment before has been read
    if (share.sends) ClusterWait();                  // for the barriers of the cluster's first
    if (share.cluster > 1 && !share.sends && threadIdx.x == 0) {
      const int32_t there = segment.queries * p_.group - segment.row_tile * kRows;
      MbarrierArriveExpectTx(
          parts_full_, static_cast<uint32_t>((share.cluster - 1) * min(there, kRows) * kRowBytes));
    }
    sums_.WriteStats(tile, 0);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      if (n > 0) Sums::ComputeBarrier();  // the tile before has been read
      sums_.WriteSums(n, tile, 0);
      Sums::ComputeBarrier();
      AddSums(segment, n, share, slot);
    }
    if (!share.whole && !share.sends) Combine(segment, flag_ + slot % 2);
  }

  __device__ __forceinline__ void AddSums(const DecodeSegment& segment, int n, const Share& share,
                                          int slot) {
    sums_.template AddWarps<kComputeThreads>(
        n, 0, [&](int row) { return RowIndex(segment, row); },
        [&](int row, int d, int64_t index, typename Sums::Part& part) {
          if (share.sends) {
            Send(row, d, part.total, make_float2(part.top, part.sum));
            return;
          }
          if (share.cluster > 1)
            AddCluster(row, d, share.cluster - 1, part.total, part.top, part.sum);
          if (share.whole) {
            sums_.Store(index, d, part.total, part.sum);
          } else {
            sums_.HandOn(slot, row, d, part);
          }
        });
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

  // After this CTA's part is in the workspace. `flag` is of this segment alone: a CTA shares its
  // first segment and its last.
  __device__ __forceinline__ void Combine(const DecodeSegment& segment, int32_t* flag) {
    const int first = piece_.First(segment);
    const int step = piece_.first_cta >= 0 ? p_.cluster : 1;  // CTAs from a part to the next
    const int32_t ctas = piece_.Count(segment);
    const int count = (ctas + step - 1) >> __popc(static_cast<uint32_t>(step - 1));
    const int first_slot =
        2 * first + (piece_.first_cta >= 0 || piece_.cuts.Begin(first) >= segment.begin ? 0 : 1);
    sums_.template Combine<kComputeThreads>([&](int row) { return RowIndex(segment, row); }, first,
                                            first_slot, count, step, flag);
  }

  const AttnDecodeParams& p_;
  const Rope& rope_;
  uint8_t* ring_;
  float* parts_;
  float2* part_stats_;
  Mbarrier* full_;
  Mbarrier* empty_;
  Mbarrier* parts_full_;
  Mbarrier* older_;
  uint8_t* codes_;
  int32_t* table_;
  int32_t* flag_;
  DecodePiece& piece_;
  DecodeSchedule schedule_;
  Sums sums_;
};

template <int kDim, int kTiles, class Probs, class Rope>
__global__ void __launch_bounds__(DecodeThreads(8 * kTiles, kWritesTokens<Rope>),
                                  DecodeCtasPerSm(8 * kTiles))
    AttnDecodeI4(const __grid_constant__ AttnDecodeParams p,
                 const __grid_constant__ AttnDecodeShared shared,
                 const __grid_constant__ Rope rope) {
  extern __shared__ __align__(128) uint8_t dynamic_shared[];
  DecodeKernel<kDim, kTiles, Probs, Rope>(p, shared, rope, dynamic_shared).Run();
}

}  // namespace fireq::sm90
