// Unpacks the step's tiles into the workspace, where the query blocks that visit one are many: half
// a page (K or V) at a time, by whichever warp of any CTA has nothing else to do. Warps take halves
// in the plan's order, one or two ahead, and nobody waits for one that nobody has taken, so not all
// CTAs need run at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/attn_prefill/unpack.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

// One warp's. `half` is its room in shared memory.
template <int kDim>
class PrefillTileUnpacker {
 public:
  using Ring = PrefillRing<kDim, PrefillSource::kTiles>;
  using PackedHalf = typename Ring::PackedHalf;
  using Half = typename Ring::Half;

  __device__ PrefillTileUnpacker(const AttnPrefillKernelParams& p, Half& half)
      : p_(p), half_(half) {
    if (p_.halves == 0) return;
    for (uint32_t slot = 0; slot < Ring::kPackedHalves; ++slot) Load(slot, Broadcast(Take()));
  }

  // Whether the warp has taken one that is to be unpacked.
  __device__ __forceinline__ bool Left() const {
    return p_.halves > 0 && half_.taken[Slot()] < p_.halves;
  }

  // The number, among AttnPrefillPlan::tiles, of the tile that it is of.
  __device__ __forceinline__ uint32_t Tile() const { return half_.taken[Slot()] / kPrefillHalves; }

  // That one, and takes another.
  __device__ __forceinline__ void Unpack() {
    const uint32_t another = Take();  // known when it is wanted
    const uint32_t slot = Slot();
    const uint32_t taken = half_.taken[slot];
    const uint32_t page = taken / 2 % kPrefillPages;
    MbarrierWait(&half_.full[slot], done_ / Ring::kPackedHalves & 1);
    ++done_;
    const uint32_t number = static_cast<uint32_t>(half_.tile[slot].number);
    // Of the page as many tokens belong to the sequence.
    const int32_t valid = half_.tile[slot].context - half_.tile[slot].first_token -
                          static_cast<int32_t>(page) * kTokensPerPage;
    PrefillTile<kDim>* to = static_cast<PrefillTile<kDim>*>(p_.workspace) + number;
    if (taken % 2 == 0) {
      Convert(PrefillKeyUnpack<kDim, 3>(), half_.packed[slot], valid);
      Send(to->k[page], to->scales[page].score, half_.scales.score, sizeof(half_.scales.score));
    } else {
      Convert(PrefillValueUnpack<kDim, 1>(), half_.packed[slot], valid);
      Send(to->v[page], to->scales[page].value, half_.scales.value, kValueFactors);
    }
    Load(slot, Broadcast(another));
    Count(number);
  }

 private:
  static constexpr uint32_t kValueFactors =
      offsetof(PrefillScales, unused) + 8 - offsetof(PrefillScales, value);
  static_assert(kValueFactors % 16 == 0);

  static __device__ __forceinline__ uint32_t Lane() { return PrefillThread() % 32; }
  static __device__ __forceinline__ uint32_t Broadcast(uint32_t of_lane_0) {
    return __shfl_sync(0xFFFFFFFFu, of_lane_0, 0);
  }

  __device__ __forceinline__ uint32_t Slot() const { return done_ % Ring::kPackedHalves; }

  // In lane 0, the number of the next half that nobody has taken.
  __device__ __forceinline__ uint32_t Take() const {
    return Lane() == 0 ? atomicAdd(p_.progress + kPrefillTaken, 1u) : 0u;
  }

  // Begins to copy a half that the warp has taken.
  __device__ __forceinline__ void Load(uint32_t slot, uint32_t taken) const {
    if (Lane() == 0) half_.taken[slot] = taken;
    __syncwarp();
    if (taken >= p_.halves) return;
    constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
    const int4 tile = __ldg(reinterpret_cast<const int4*>(p_.tiles + taken / kPrefillHalves));
    const int32_t page = static_cast<int32_t>(taken / 2 % kPrefillPages);
    // Behind the last page that comes again: no key of it is seen, but what the tensor cores
    // multiply by zero must be finite.
    const int32_t at = min(tile.y + page * kTokensPerPage, tile.z - 1) / kTokensPerPage;
    const int32_t page_number = p_.page_table[int64_t{tile.x} * p_.max_pages + at];
    const uint32_t heads = static_cast<uint32_t>(p_.kv_heads);
    const uint64_t block = static_cast<uint64_t>(static_cast<uint32_t>(page_number)) * heads +
                           static_cast<uint32_t>(tile.w) % heads;
    if (ElectOne()) {
      half_.tile[slot] = {tile.x, tile.y, tile.z, tile.w};
      const uint8_t* from = p_.pages + block * kLayout.head_bytes();
      PackedHalf& to = half_.packed[slot];
      MbarrierArriveExpectTx(&half_.full[slot], sizeof(to.codes) + sizeof(to.scales));
      BulkLoad(to.codes, from + (taken % 2 == 0 ? 0 : kLayout.v_offset()), sizeof(to.codes),
               &half_.full[slot], kEvictFirst);
      BulkLoad(to.scales, from + kLayout.k_scale_offset(), sizeof(to.scales), &half_.full[slot],
               kEvictFirst);
    }
    __syncwarp();
  }

  template <class Unpacking>
  __device__ __forceinline__ void Convert(Unpacking unpacking, const PackedHalf& from,
                                          int32_t valid) const {
    unpacking.Load(from.codes, from.scales, Lane(), valid);
    unpacking.Store(from.codes, from.scales, Lane(), half_.codes, half_.scales);
    FenceProxyAsync();  // the stores above before the copies' reads
    __syncwarp();
  }

  // Begins to copy what is unpacked to the workspace.
  __device__ __forceinline__ void Send(uint8_t* codes, float* factors, const float* from,
                                       uint32_t factor_bytes) const {
    if (ElectOne()) {
      BulkStore(codes, half_.codes, sizeof(half_.codes));
      BulkStore(factors, from, factor_bytes);
      BulkGroupCommit();
    }
    __syncwarp();
  }

  // As there, once it is, of tile `number`.
  __device__ __forceinline__ void Count(uint32_t number) const {
    if (ElectOne()) {
      BulkGroupsWait();
      FenceProxyAsyncGlobal();
      AddRelease(p_.progress + kPrefillReady + number, 1);
    }
    __syncwarp();
  }

  const AttnPrefillKernelParams& p_;
  Half& half_;
  uint32_t done_ = 0;  // halves
};

}  // namespace fireq::sm90
