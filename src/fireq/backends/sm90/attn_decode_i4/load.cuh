// The warp that loads: it walks the CTA's piece of the line of pages and copies each page's block
// of one head into the ring. (Of many segments: listed_load.cuh.)
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/fresh_token.cuh"
#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/schedule.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

// One head's block of a page.
template <int kDim>
struct DecodePageCopy {
  static constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
  static constexpr int kStageBytes = static_cast<int>(kLayout.head_bytes());
  static constexpr int kGroups = kTokensPerPage / kVGroupTokens;

  // Its first `groups` groups of 16 tokens, at least one, to `stage`; completes on `barrier`. The
  // others' codes are then those of another page: finite, and multiplied by zeros.
  static __device__ __forceinline__ void Run(const uint8_t* from, int groups, uint8_t* stage,
                                             Mbarrier* barrier) {
    const auto copy = [&](int64_t offset, uint32_t bytes) {
      BulkLoad(stage + offset, from + offset, bytes, barrier, kEvictFirst);
    };
    if (groups == kGroups) {
      MbarrierArriveExpectTx(barrier, kStageBytes);
      copy(0, kStageBytes);
      return;
    }
    constexpr int64_t kScales = kLayout.k_scale_offset();
    constexpr auto kScaleBytes = static_cast<uint32_t>(kStageBytes - kScales);
    const uint32_t codes = static_cast<uint32_t>(groups * kDim * kVGroupBytes);  // of K, and of V
    MbarrierArriveExpectTx(barrier, 2 * codes + kScaleBytes);
    copy(0, codes);
    copy(kLayout.v_offset(), codes);
    copy(kScales, kScaleBytes);
  }
};

// Where the kernel writes the step's tokens, a segment's last page completes on `older`, and is
// full with its token.
template <int kDim, int kRows, class Rope>
class DecodeLoader {
 public:
  using PageCopy = DecodePageCopy<kDim>;
  static constexpr int kStageBytes = PageCopy::kStageBytes;
  static constexpr int kTablePages = DecodeWarps(kRows) * 32;

  // `table` [kTablePages]: what GuessPage gave, where segments are cut.
  __device__ DecodeLoader(const AttnDecodeParams& p, const DecodePiece& piece,
                          DecodeSchedule schedule, uint8_t* ring, Mbarrier* full, Mbarrier* empty,
                          Mbarrier* older, const int32_t* table)
      : p_(p),
        piece_(piece),
        schedule_(schedule),
        ring_(ring),
        full_(full),
        empty_(empty),
        older_(older),
        table_(table) {}

  // While the lengths are on their way: where segments are cut, the sequence is known if there is
  // one alone, or if the contexts are long enough for every cut.
  static __device__ int32_t GuessPage(const AttnDecodeParams& p) {
    const int32_t sequence = GuessSequence(p);
    const int32_t page = static_cast<int32_t>(threadIdx.x);
    if (p.cuts == 0 || sequence >= p.num_sequences || page >= p.max_pages) return 0;
    return LoadGlobalNow(p.page_table + int64_t{sequence} * p.max_pages + page);
  }

  // Every lane finds the page of one unit, then they copy one after another.
  __device__ void Run() {
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int32_t end = piece_.end;
    for (int32_t at = piece_.begin; at < end; at += 32)
      CopyUnits(FindSource(at + lane, end), end - at < 32 ? end - at : 32);
  }

 private:
  static constexpr bool kWrites = kWritesTokens<Rope>;

  // Where a unit's page is, and how many groups of 16 tokens of it; 0 where there is none.
  struct Source {
    int32_t number;
    int32_t head;
    int32_t groups;
    bool fresh;  // this step's own tokens belong into it
  };
  __device__ __forceinline__ Source FindSource(int32_t unit, int32_t end) const {
    Source source = {};
    if (unit >= end) return source;
    const DecodeSegment segment = piece_.first_cta >= 0 ? piece_.segment : schedule_.Find(unit);
    const int page = unit - segment.begin;
    const int tokens = segment.context - page * kTokensPerPage;
    source.head = segment.head;
    source.fresh = tokens < kTokensPerPage + segment.queries;
    if (tokens > 0) {
      source.number = PageNumber(segment.sequence, page);
      source.groups = min(PageCopy::kGroups, (tokens + kVGroupTokens - 1) / kVGroupTokens);
    }
    return source;
  }

  static __device__ int32_t GuessSequence(const AttnDecodeParams& p) {
    const int32_t segment = p.by_cuts.Divide(static_cast<int32_t>(blockIdx.x));
    return p.num_sequences == 1 ? 0 : p.by_tracks.Divide(segment);
  }
  __device__ int32_t PageNumber(int32_t sequence, int32_t page) const {
    if (p_.cuts > 0 && sequence == GuessSequence(p_) && page < kTablePages) return table_[page];
    return LoadGlobalNow(p_.page_table + int64_t{sequence} * p_.max_pages + page);
  }

  // The units of lanes 0 .. count - 1.
  __device__ __forceinline__ void CopyUnits(const Source& source, int count) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    const uint8_t* from =
        p_.pages + int64_t{kStageBytes} * (int64_t{source.number} * p_.kv_heads + source.head);
    // Pages that this step's own tokens were written into wait for the kernel that wrote them;
    // older ones need not, and none does where the token is put into the ring.
    const uint32_t fresh_lanes = __ballot_sync(0xFFFFFFFFu, source.fresh);
    for (int i = 0; i < count; ++i) {
      if (!kWrites && !waited_ && (fresh_lanes >> i & 1) != 0) {
        GridDependencyWait();
        waited_ = true;
      }
      MbarrierWait(empty_ + stage_, phase_);
      if (lane == i) Copy(from, source, stage_);
      __syncwarp();
      if (++stage_ == p_.stages) {
        stage_ = 0;
        phase_ ^= 1;
      }
    }
  }

  // None for a page that is not there.
  __device__ __forceinline__ void Copy(const uint8_t* from, const Source& source, int stage) {
    if (source.groups == 0) {
      MbarrierArrive(full_ + stage);
      return;
    }
    PageCopy::Run(from, source.groups, ring_ + stage * kStageBytes,
                  (kWrites && source.fresh ? older_ : full_) + stage);
  }

  const AttnDecodeParams& p_;
  const DecodePiece& piece_;
  DecodeSchedule schedule_;
  uint8_t* ring_;
  Mbarrier* full_;
  Mbarrier* empty_;
  Mbarrier* older_;
  const int32_t* table_;
  int stage_ = 0;
  uint32_t phase_ = 1;  // the first pass over the ring waits for nobody
  bool waited_ = false;
};

}  // namespace fireq::sm90
