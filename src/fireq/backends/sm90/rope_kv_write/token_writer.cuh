// K and V of a sequence's only token of a step, of one KV head, by a warp of another kernel: the
// codes are made first, and put where that kernel has the page's block.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/rope_kv_write/kernel.cuh"

namespace fireq::sm90 {

template <int kDim>
class RopeTokenWriter : RopeKvWriter<kDim, RopeRuns::kFewShort> {
  using Base = RopeKvWriter<kDim, RopeRuns::kFewShort>;

 public:
  static constexpr int kCodeBytes = 128;  // of shared memory: vectors of a warp times kDim

  __device__ RopeTokenWriter(const RopeKvWriteParams& p, uint8_t* codes)
      : Base(p, codes, nullptr, static_cast<int>(threadIdx.x & 31)) {
    this->active_ = true;
  }

  // Codes and scales, which stay in registers.
  __device__ __forceinline__ void Make(int32_t token, int32_t position, int kv_head) {
    this->token_ = token;
    this->position_ = position;
    this->LoadRotation();
    this->Fetch(Head(0, kv_head));
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      this->head_ = Head(pass, kv_head);
      this->Unpack();
      if (pass + 1 < kPasses) this->Fetch(Head(pass + 1, kv_head));
      if (!IsValue(pass)) this->Rotate(nullptr, this->p_.crs_k, this->p_.key_shift);
      scales_[pass] = this->Quantize(words_[pass]);
    }
  }

  // Into the block, of which every other token keeps its bits.
  __device__ __forceinline__ void Put(uint8_t* block) {
    constexpr KvPageLayout kLayout = Base::Layout();
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if (!IsValue(pass)) {
        this->PutKey(block, words_[pass], scales_[pass]);
      } else {
        this->LoadNeighbours(block);
        this->WriteScale(block, kLayout.v_scale_offset(), kLayout.v_zero_offset(), scales_[pass]);
        this->ReplaceNibbles(block, words_[pass]);
      }
    }
    __syncwarp();  // all of it is there, and the codes have been read
  }

  // Its bytes from one block to another.
  __device__ __forceinline__ void Copy(const uint8_t* from, uint8_t* to) const {
    constexpr KvPageLayout kLayout = Base::Layout();
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int at = this->position_ % kTokensPerPage;
    if (lane < kDim / 8) CopyBytes<uint32_t>(at * (kDim / 2) + 4 * lane, from, to);
#pragma unroll
    for (int d = lane; d < kDim; d += 32) CopyBytes<uint8_t>(kLayout.VCode(at, d).byte, from, to);
    if (lane < 2) {
      CopyBytes<bf16_t>((lane == 0 ? kLayout.k_scale_offset() : kLayout.v_scale_offset()) + 2 * at,
                        from, to);
      CopyBytes<uint8_t>((lane == 0 ? kLayout.k_zero_offset() : kLayout.v_zero_offset()) + at, from,
                         to);
    }
  }

 private:
  // K and V one after the other, or by half a warp each.
  static constexpr int kPasses = Base::kLanes == 32 ? 2 : 1;
  __device__ __forceinline__ bool IsValue(int pass) const {
    return (kPasses == 2 ? pass : this->vector_) != 0;
  }
  __device__ __forceinline__ int Head(int pass, int kv_head) const {
    return this->p_.num_heads + (IsValue(pass) ? this->p_.kv_heads : 0) + kv_head;
  }

  template <class T>
  static __device__ __forceinline__ void CopyBytes(int64_t at, const uint8_t* from, uint8_t* to) {
    *reinterpret_cast<T*>(to + at) = *reinterpret_cast<const T*>(from + at);
  }

  uint32_t words_[kPasses][Base::kValues / 4];
  KvScale scales_[kPasses];
};

}  // namespace fireq::sm90
