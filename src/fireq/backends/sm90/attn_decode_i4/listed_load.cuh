// The warp that loads where a CTA has many segments: it copies what the step's lists say into the
// ring.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_decode_i4/lists.h"
#include "fireq/backends/sm90/attn_decode_i4/load.cuh"
#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mbarrier.cuh"

namespace fireq::sm90 {

// A CTA's pages and parts.
struct DecodeList {
  int32_t pages;
  const DecodePageWord* words;
  const DecodePart* parts;

  static __device__ __forceinline__ DecodeList Of(const DecodeLists& lists, const uint4& head) {
    return {static_cast<int32_t>(head.x), lists.pages + head.y, lists.parts + head.z};
  }
  __device__ __forceinline__ DecodePart Part(int number) const {
    DecodePart part;
    uint4* words = reinterpret_cast<uint4*>(&part);
    const uint4* from = reinterpret_cast<const uint4*>(parts + number);
    words[0] = LoadGlobalNow128(from);
    words[1] = LoadGlobalNow128(from + 1);
    return part;
  }
};

// The next pages' words are on their way while these are copied, and no more than kWindow pages
// are.
template <int kDim>
class ListedLoader {
 public:
  using PageCopy = DecodePageCopy<kDim>;
  static constexpr int kStageBytes = PageCopy::kStageBytes;

  __device__ ListedLoader(const AttnDecodeParams& p, const DecodeList& list, uint8_t* ring,
                          Mbarrier* full, Mbarrier* empty)
      : p_(p), list_(list), ring_(ring), full_(full), empty_(empty) {}

  // `first`: of lane i, word i of the CTA's DecodeListHead.
  __device__ void Run(uint32_t first) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    PrefetchL1(list_.parts + lane % 8);  // the first of them
    DecodePageWord word{__shfl_down_sync(0xFFFFFFFFu, first, 32 - kDecodeHeadPages)};
    if (lane >= kDecodeHeadPages) word = {};
    parts_ = __popc(__ballot_sync(0xFFFFFFFFu, word.begins()));
    int32_t step = kDecodeHeadPages;
    for (int32_t at = 0;;) {
      const DecodePageWord next = Word(at + step + lane);
      Copy(word, min(list_.pages - at, step));
      at += step;
      if (at >= list_.pages) break;
      // What is behind so many pages has had its queries.
      if (!waited_) GridDependencyWait();
      waited_ = true;
      word = next;
      step = 32;
      PrefetchParts(word);
    }
  }

 private:
  static constexpr int kWindow = 4;  // pages
  static_assert(kDecodeHeadPages + 4 == 32);

  __device__ __forceinline__ DecodePageWord Word(int32_t page) const {
    if (page >= list_.pages) return {0};
    return {
        static_cast<uint32_t>(LoadGlobalNow(reinterpret_cast<const int32_t*>(list_.words + page)))};
  }

  // The parts that begin among these pages, and their queries, which the warps that compute will
  // want all at once, behind the pages that are asked for now. Not before they are there: the L1
  // would keep what was there before.
  __device__ __forceinline__ void PrefetchParts(DecodePageWord word) {
    const uint32_t begins = __ballot_sync(0xFFFFFFFFu, word.begins());
    const uint32_t before = begins & ((1u << (threadIdx.x & 31)) - 1);
    if (word.begins()) {
      const DecodePart part = list_.Part(parts_ + __popc(before));
      for (int row = 0; row < 8; ++row) {
        const int64_t index = part.RowIndex(p_, row);
        if (index < 0) break;
        PrefetchL1(p_.q + index * kDim);
        if (row == 0) PrefetchL1(p_.scale_q + index);
      }
    }
    parts_ += __popc(begins);
  }

  // The pages of lanes 0 .. count - 1.
  __device__ __forceinline__ void Copy(DecodePageWord word, int32_t count) {
    const uint32_t block_and_groups = word.bits;
    // Pages that this step's own tokens were written into wait for the kernel that wrote them;
    // older ones need not.
    const uint32_t fresh_lanes = __ballot_sync(0xFFFFFFFFu, word.fresh());
    for (int i = 0; i < count; ++i) {
      if (!waited_ && (fresh_lanes >> i & 1) != 0) {
        GridDependencyWait();
        waited_ = true;
      }
      const DecodePageWord now{__shfl_sync(0xFFFFFFFFu, block_and_groups, i)};
      WaitForWindow();
      MbarrierWait(empty_ + stage_, phase_);
      // One thread, as the compiler can see: else each copy is a loop over threads.
      if (ElectOne()) {
        if (now.groups() == 0) {
          MbarrierArrive(full_ + stage_);
        } else {
          PageCopy::Run(p_.pages + int64_t{kStageBytes} * now.block(), now.groups(),
                        ring_ + stage_ * kStageBytes, full_ + stage_);
        }
      }
      __syncwarp();
      if (++stage_ == p_.stages) {
        stage_ = 0;
        phase_ ^= 1;
      }
    }
  }

  // Until fewer than kWindow pages are on their way. More would only queue in front of each other
  // and of everything else that the SM asks for.
  __device__ __forceinline__ void WaitForWindow() {
    if (ahead_ < kWindow) {
      ++ahead_;
      return;
    }
    MbarrierWait(full_ + landed_, landed_phase_);
    if (++landed_ == p_.stages) {
      landed_ = 0;
      landed_phase_ ^= 1;
    }
  }

  const AttnDecodeParams& p_;
  const DecodeList list_;
  uint8_t* ring_;
  Mbarrier* full_;
  Mbarrier* empty_;
  int stage_ = 0;
  uint32_t phase_ = 1;  // the first pass over the ring waits for nobody
  bool waited_ = false;
  int32_t parts_ = 0;  // that begin among the pages so far
  int ahead_ = 0;      // pages on their way, until they are kWindow
  int landed_ = 0;     // stage of the first of them
  uint32_t landed_phase_ = 0;
};

}  // namespace fireq::sm90
