// The step's own tokens, written by the CTA that has their segment's last page: a warp puts the
// token into the page in the ring, whose older tokens have been copied there while the kernel in
// front ran, and into the page in memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_decode_i4/schedule.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/rope_kv_write/token_writer.cuh"

namespace fireq::sm90 {

// Who makes queries and writes tokens: rope_kv_write before this kernel, or, given its arguments,
// this kernel.
struct TokensAreWritten {};
template <class Rope>
inline constexpr bool kWritesTokens = std::is_same_v<Rope, RopeKvWriteParams>;

// One warp's.
template <int kDim>
class FreshTokens {
 public:
  static constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
  static constexpr int kStageBytes = static_cast<int>(kLayout.head_bytes());
  static_assert(RopeTokenWriter<kDim>::kCodeBytes <= kDecodeTokenBytes);

  // `older` [stages]: of a last page's older tokens. `codes` [kDecodeTokenBytes].
  __device__ FreshTokens(const AttnDecodeParams& p, const RopeKvWriteParams& rope, uint8_t* ring,
                         Mbarrier* full, Mbarrier* older, uint8_t* codes)
      : p_(p), rope_(rope), ring_(ring), full_(full), older_(older), writer_(rope, codes) {}

  // Of a segment whose last page is number `unit` of the CTA's. In the order of the units.
  __device__ __forceinline__ void Write(const DecodeSegment& segment, int32_t unit) {
    if (segment.context <= 0) return;
    const int32_t number =
        LoadGlobalNow(p_.page_table + int64_t{segment.sequence} * p_.max_pages + segment.pages - 1);
    writer_.Make(segment.first_query, segment.context - 1, segment.head);
    const int stage = unit % p_.stages;
    MbarrierWait(older_ + stage, phases_ >> stage & 1);
    phases_ ^= 1u << stage;
    uint8_t* block = ring_ + stage * kStageBytes;
    writer_.Put(block);
    writer_.Copy(
        block, rope_.pages + int64_t{kStageBytes} * (int64_t{number} * p_.kv_heads + segment.head));
    FenceProxyAsync();  // the stage's next page comes by the copy engine
    __syncwarp();
    if ((threadIdx.x & 31) == 0) MbarrierArrive(full_ + stage);
  }

 private:
  const AttnDecodeParams& p_;
  const RopeKvWriteParams& rope_;
  uint8_t* ring_;
  Mbarrier* full_;
  Mbarrier* older_;
  uint32_t phases_ = 0;  // of `older`, a bit each
  RopeTokenWriter<kDim> writer_;
};

}  // namespace fireq::sm90
