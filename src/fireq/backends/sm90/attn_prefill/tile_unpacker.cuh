// Unpacks the step's tiles into the workspace, where the query blocks that visit one are many: half
// a page (K or V) at a time, by whichever warp of any CTA has nothing else to do. Warps take halves
// in the plan's order and nobody waits for one that nobody has taken, so not all CTAs need run at
// once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/attn_prefill/unpack.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

// One warp's. `half` is where it unpacks to.
template <int kDim>
class PrefillTileUnpacker {
 public:
  using Half = typename PrefillRing<kDim, PrefillSource::kTiles>::Half;

  __device__ PrefillTileUnpacker(const AttnPrefillParams& p, Half& half) : p_(p), half_(half) {
    if (p_.halves > 0) Take();
  }

  // Whether the warp has taken one that is to be unpacked.
  __device__ __forceinline__ bool Left() const { return taken_ < p_.halves; }

  // That one, and takes the next.
  __device__ __forceinline__ void Unpack() {
    constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
    const uint32_t number = static_cast<uint32_t>(__ldg(p_.order + taken_ / kPrefillHalves));
    const uint32_t heads = static_cast<uint32_t>(p_.kv_heads);
    const int4 tile = __ldg(reinterpret_cast<const int4*>(p_.tiles + number / heads));
    const AttnPrefillTile which{tile.x, tile.y, tile.z, 0};
    const uint32_t page = taken_ / 2 % kPrefillPages;
    const bool keys = taken_ % 2 == 0;
    const int32_t first_token = which.first_token + static_cast<int32_t>(page) * kTokensPerPage;
    // Of the page as many tokens belong to the sequence. Behind its last page the page before comes
    // again: no key of it is seen, but what the tensor cores multiply by zero must be finite.
    const int32_t valid = which.context - first_token;
    const int32_t at = min(first_token, which.context - 1) / kTokensPerPage;
    const int32_t page_number = p_.page_table[int64_t{which.sequence} * p_.max_pages + at];
    const uint8_t* block =
        p_.pages +
        (static_cast<uint64_t>(static_cast<uint32_t>(page_number)) * heads + number % heads) *
            kLayout.head_bytes();
    const uint8_t* scales = block + kLayout.k_scale_offset();
    PrefillTile<kDim>* to = static_cast<PrefillTile<kDim>*>(p_.workspace) + number;
    if (keys) {
      Convert(PrefillKeyUnpack<kDim, 3>(), block, scales, valid);
      Send(to->k[page], to->scales[page].score, half_.scales.score, sizeof(half_.scales.score),
           number);
    } else {
      Convert(PrefillValueUnpack<kDim, 1>(), block + kLayout.v_offset(), scales, valid);
      Send(to->v[page], to->scales[page].value, half_.scales.value, kValueFactors, number);
    }
    Take();
  }

 private:
  static constexpr uint32_t kValueFactors =
      offsetof(PrefillScales, unused) + 8 - offsetof(PrefillScales, value);
  static_assert(kValueFactors % 16 == 0);

  static __device__ __forceinline__ uint32_t Lane() { return threadIdx.x % 32; }

  __device__ __forceinline__ void Take() {
    if (Lane() == 0) taken_ = atomicAdd(p_.progress + kPrefillTaken, 1u);
    taken_ = __shfl_sync(0xFFFFFFFFu, taken_, 0);
  }

  template <class Unpacking>
  __device__ __forceinline__ void Convert(Unpacking unpacking, const uint8_t* codes,
                                          const uint8_t* scales, int32_t valid) const {
    // All of them on their way to the L2 at once: registers are there for three loads of eight.
    if (ElectOne()) BulkPrefetch(codes, sizeof(half_.codes) / 2);
    unpacking.Load(codes, scales, Lane(), valid);
    unpacking.Store(codes, scales, Lane(), half_.codes, half_.scales);
    FenceProxyAsync();  // the stores above before the copies' reads
    __syncwarp();
  }

  // To the workspace, and counts it as there.
  __device__ __forceinline__ void Send(uint8_t* codes, float* factors, const float* from,
                                       uint32_t factor_bytes, uint32_t number) const {
    if (ElectOne()) {
      BulkStore(codes, half_.codes, sizeof(half_.codes));
      BulkStore(factors, from, factor_bytes);
      BulkGroupCommit();
      BulkGroupsWait();
      FenceProxyAsyncGlobal();
      AddRelease(p_.progress + kPrefillReady + number, 1);
    }
    __syncwarp();
  }

  const AttnPrefillParams& p_;
  Half& half_;
  uint32_t taken_ = 0;  // number of the half that the warp has taken, four a tile of the order
};

}  // namespace fireq::sm90
