// The producer warpgroup: copies packed pages in, unpacks INT4 to E4M3 into the swizzled tiles that
// wgmma reads, and turns scales into factors. Both get (q - z) 2^-9, exact in E4M3, in sign and
// magnitude: corrections z sum Q and sum P' z outside would lose the last bits to cancellation,
// because the tensor cores add with 13 bits below the largest product.
//
// Of a tile's two pages each belongs to a pair of warps, one of which does K and the other V, each
// with packed halves of pages of its own: no warp waits for another.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <int kDim>
class PrefillProducer {
 public:
  using Shared = PrefillShared<kDim>;
  static constexpr int kPageBytes = static_cast<int>(Shared::kLayout.head_bytes());
  static constexpr int kKeyChunks = kDim / 32;  // 16-byte runs of codes of one token

  __device__ PrefillProducer(const AttnPrefillParams& p, Shared& shared, int warp)
      : p_(p), shared_(shared), warp_(warp), lane_(static_cast<int>(threadIdx.x) % 32) {
    if (OfKeys()) {
      const int row = RowOfKey(lane_ / kKeyChunks);
      // 16-byte chunk c of a row lies at c ^ (address bits 7..): rows of 128 or of 64 bytes.
      const int swizzle = kDim == 128 ? row & 7 : (row >> 1) & 3;
      place_ = row * kDim + 16 * (2 * (lane_ % kKeyChunks) ^ swizzle);
    } else {
      place_ = lane_ * kTokensPerPage + 16 * ((lane_ >> 1) & 3);
    }
  }

  __device__ __forceinline__ void Run() {
    PrefillWalk walk(p_);
    PrefillWork work;
    uint32_t before = 0;  // tiles of the works before
    uint32_t turn = 0;
    for (; walk.Next(work); ++turn) {
      Announce(work, turn);
      const int32_t tiles = work.Tiles(work.first_row, kPrefillRows, p_.group);
      const int32_t context = work.prefix + work.rows / p_.group;
      int32_t next = 0;  // tile to copy
      for (; next < kPrefillRawPages; ++next) {
        if (next < tiles) Load(work, PageNumber(work, next), loads_++);
      }
      for (int32_t tile = 0; tile < tiles; ++tile, ++next) {
        Unpack(before + tile, context - Page(tile) * kTokensPerPage);
        if (next < tiles) Load(work, PageNumber(work, next), loads_++);
      }
      before += static_cast<uint32_t>(tiles);
    }
    const int buffer = static_cast<int>(turn & 1);
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
    if (lane_ == 0) {
      if (warp_ == 0) shared_.piece[buffer].tiles = -1;
      MbarrierArrive(&shared_.piece_full[buffer]);
    }
  }

 private:
  __device__ __forceinline__ bool OfKeys() const { return warp_ % 2 == 0; }
  // Of the sequence's pages, the warp's one of a tile.
  __device__ __forceinline__ int32_t Page(int32_t tile) const {
    return kPrefillPages * tile + warp_ / 2;
  }

  // What the consumers must know of the piece and its rows.
  __device__ __forceinline__ void Announce(const PrefillWork& work, uint32_t turn) {
    const int buffer = static_cast<int>(turn & 1);
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
#pragma unroll 1
    for (int row = 32 * warp_ + lane_; row < kPrefillRows; row += 128) {
      shared_.rows[buffer][row] = Row(work, work.first_row + row);
    }
    if (warp_ == 0 && lane_ == 0) Describe(work, shared_.piece[buffer]);
    __syncwarp();
    if (lane_ == 0) MbarrierArrive(&shared_.piece_full[buffer]);
  }

  __device__ __forceinline__ PrefillRow Row(const PrefillWork& work, int row) const {
    constexpr float kLog2eOverRoot =
        1.4426950408889634f * (kDim == 128 ? 0.08838834764831845f : 0.125f);
    if (row >= work.rows) return {1.0f, work.Limit(row, p_.group), -1};
    const int64_t index = work.Index(row, p_.group, p_.num_heads);
    return {p_.scale_q[index] * kLog2eOverRoot, work.Limit(row, p_.group),
            static_cast<int32_t>(index)};
  }
  __device__ __forceinline__ void Describe(const PrefillWork& work, PrefillPiece& piece) const {
    piece.tiles = work.Tiles(work.first_row, kPrefillRows, p_.group);
#pragma unroll
    for (int i = 0; i < kPrefillConsumers; ++i) {
      const int first = work.first_row + 64 * i;
      piece.group_tiles[i] = work.Tiles(first, 64, p_.group);
      piece.masked_tiles[i] = piece.group_tiles[i] - work.Limit(first, p_.group) / kPrefillKeys;
    }
  }

  // The lanes hold the page numbers of 32 tiles. Behind the last page its bytes come again: no key
  // of it is seen there, but what the tensor cores multiply by zero must be finite.
  __device__ __forceinline__ int32_t PageNumber(const PrefillWork& work, int32_t tile) {
    if (tile % 32 == 0) {
      const int32_t keys = work.Keys(work.first_row, kPrefillRows, p_.group);
      const int32_t page = min(Page(tile + lane_), (keys - 1) / kTokensPerPage);
      number_ = p_.page_table[int64_t{work.sequence} * p_.max_pages + page];
    }
    return __shfl_sync(0xFFFFFFFFu, number_, tile % 32);
  }

  // The warp has read what was in the raw half of a page before.
  __device__ __forceinline__ void Load(const PrefillWork& work, int32_t number, uint32_t load) {
    const int slot = static_cast<int>(load % kPrefillRawPages);
    if (lane_ == 0) {
      constexpr KvPageLayout kLayout = Shared::kLayout;
      Mbarrier* full = &shared_.raw_full[warp_][slot];
      uint8_t* to = shared_.raw[warp_][slot];
      const uint8_t* from = p_.pages + (int64_t{number} * p_.kv_heads + work.kv_head) * kPageBytes;
      MbarrierArriveExpectTx(full, Shared::kRawBytes);
      BulkLoad(to, from + (OfKeys() ? 0 : kLayout.v_offset()), Shared::kRawScales, full,
               kEvictLast);
      BulkLoad(to + Shared::kRawScales,
               from + (OfKeys() ? kLayout.k_scale_offset() : kLayout.v_scale_offset()),
               2 * kTokensPerPage, full, kEvictLast);
      BulkLoad(to + Shared::kRawZeros,
               from + (OfKeys() ? kLayout.k_zero_offset() : kLayout.v_zero_offset()),
               kTokensPerPage, full, kEvictLast);
    }
    __syncwarp();
  }

  // `index` counts the CTA's tiles; `valid` tokens of the page belong to the sequence.
  __device__ __forceinline__ void Unpack(uint32_t index, int32_t valid) {
    const int slot = static_cast<int>(unpacked_ % kPrefillRawPages);
    const int stage = static_cast<int>(index % kPrefillStages);
    MbarrierWait(&shared_.raw_full[warp_][slot], unpacked_ / kPrefillRawPages & 1);
    MbarrierWait(&shared_.empty[stage], ~(index / kPrefillStages) & 1);
    ++unpacked_;
    const uint8_t* raw = shared_.raw[warp_][slot];
    const uint32_t scales = TwoScales(raw, valid);
    if (OfKeys()) {
      KeyScales(scales, shared_.scales[stage][warp_ / 2]);
      UnpackKeys(raw, shared_.k[stage][warp_ / 2]);
    } else {
      ValueScales(scales, shared_.scales[stage][warp_ / 2]);
      UnpackValues(raw, shared_.v[stage][warp_ / 2]);
    }
    FenceProxyAsync();  // the stores above before the tensor cores' reads
    __syncwarp();
    if (lane_ == 0) MbarrierArrive(&shared_.full[stage]);
  }

  static __device__ __forceinline__ uint32_t Low(uint32_t w) { return w & 0x0F0F0F0Fu; }
  static __device__ __forceinline__ uint32_t High(uint32_t w) { return (w >> 4) & 0x0F0F0F0Fu; }

  // (x - z) 2^-9 of four bytes x and z in 0..15, as E4M3: |x - z| and a sign bit.
  static __device__ __forceinline__ uint32_t Subtract(uint32_t x, uint32_t z, uint32_t bias) {
    return __vabsdiffu4(x, z) | (~(x + bias) & 0x80808080u);
  }

  // Load i of the warp brings kTokens tokens; 16 bytes are 32 d of one token, chunks 2 i and 2 i +
  // 1 of its row. For Dh = 128, 8 tokens on means 4 rows on in RowOfKey's order, which flips bit 2
  // of the swizzle; 16 tokens on mean 16 rows.
  __device__ __forceinline__ void UnpackKeys(const uint8_t* raw, uint8_t* k) {
    constexpr int kTokens = 32 / kKeyChunks;
    constexpr int kLoads = kTokensPerPage / kTokens;
    const uint8_t* zeros = raw + Shared::kRawZeros + lane_ / kKeyChunks;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint4 w = *reinterpret_cast<const uint4*>(raw + 16 * (lane_ + 32 * i));
      const uint32_t z = (zeros[kTokens * i] & 0xFu) * 0x01010101u;
      const uint32_t bias = 0x80808080u - z;
      const bool odd = kDim == 128 && i % 2 == 1;
      uint8_t* to =
          k + (odd ? (place_ ^ 64) + 4 * kDim : place_) + (kDim == 128 ? i / 2 : i) * 16 * kDim;
      uint8_t* to_high = k + (odd ? (place_ ^ 80) + 4 * kDim : place_ ^ 16) +
                         (kDim == 128 ? i / 2 : i) * 16 * kDim;
      *reinterpret_cast<uint4*>(to) =
          make_uint4(Subtract(Low(w.x), z, bias), Subtract(Low(w.y), z, bias),
                     Subtract(Low(w.z), z, bias), Subtract(Low(w.w), z, bias));
      *reinterpret_cast<uint4*>(to_high) =
          make_uint4(Subtract(High(w.x), z, bias), Subtract(High(w.y), z, bias),
                     Subtract(High(w.z), z, bias), Subtract(High(w.w), z, bias));
    }
  }

  // 8 bytes are 16 tokens of one d: one chunk of V^T's row d. Zero points of tokens that were never
  // written may be anything; masked, they leave the codes finite, and those tokens' P' is zero.
  __device__ __forceinline__ void UnpackValues(const uint8_t* raw, uint8_t* v) {
    const uint8_t* from = raw + kVGroupBytes * lane_;
    const uint8_t* zeros = raw + Shared::kRawZeros;
#pragma unroll 1  // 56 registers
    for (int group = 0; group < 4; ++group) {
      uint4 z = *reinterpret_cast<const uint4*>(zeros + 16 * group);
      z = make_uint4(Low(z.x), Low(z.y), Low(z.z), Low(z.w));
      uint8_t* to = v + (place_ ^ (16 * group));
#pragma unroll
      for (int i = 0; i < kDim / 32; ++i) {
        const uint2 w =
            *reinterpret_cast<const uint2*>(from + kVGroupBytes * (kDim * group + 32 * i));
        *reinterpret_cast<uint4*>(to + 32 * kTokensPerPage * i) = make_uint4(
            Subtract(Low(w.x), z.x, 0x80808080u - z.x), Subtract(Low(w.y), z.y, 0x80808080u - z.y),
            Subtract(High(w.x), z.z, 0x80808080u - z.z),
            Subtract(High(w.y), z.w, 0x80808080u - z.w));
      }
    }
  }

  // Of the lane's two tokens; zero where they are not the sequence's.
  __device__ __forceinline__ uint32_t TwoScales(const uint8_t* raw, int32_t valid) const {
    const int token = 2 * lane_;
    const uint32_t keep = token + 1 < valid ? 0xFFFFFFFFu : (token < valid ? 0x0000FFFFu : 0u);
    return *reinterpret_cast<const uint32_t*>(raw + Shared::kRawScales + 2 * token) & keep;
  }
  __device__ __forceinline__ void KeyScales(uint32_t k, PrefillScales& to) const {
    *reinterpret_cast<float2*>(to.score + 2 * lane_) =
        make_float2(Bf16LowToFloat(k) * 512.0f, Bf16HighToFloat(k) * 512.0f);
  }
  __device__ __forceinline__ void ValueScales(uint32_t v, PrefillScales& to) const {
    const float v0 = Bf16LowToFloat(v);
    const float v1 = Bf16HighToFloat(v);
    const uint32_t top = max(__float_as_uint(v0) & 0x7FFFFFFFu, __float_as_uint(v1) & 0x7FFFFFFFu);
    const uint32_t above = (__reduce_max_sync(0xFFFFFFFFu, top) + 0x007FFFFFu) & 0x7F800000u;
    // A NaN or infinite scale makes its row NaN by itself; r stays a number.
    constexpr uint32_t kSmallest = 27u << 23;  // 2^-100
    const uint32_t r = min(max(kSmallest, above), 0x7E800000u);
    const float unit = __uint_as_float((262u << 23) - r);  // 256 / r
    *reinterpret_cast<float2*>(to.value + 2 * lane_) = make_float2(v0 * unit, v1 * unit);
    if (lane_ == 0) {
      to.log_r = static_cast<float>(static_cast<int>(r >> 23) - 127);
      to.inverse_r = __uint_as_float((254u << 23) - r);
    }
  }

  const AttnPrefillParams& p_;
  Shared& shared_;
  const int warp_;
  const int lane_;
  int place_;           // of this lane's chunk in a tile
  int32_t number_ = 0;  // of a page: one a lane
  uint32_t loads_ = 0;
  uint32_t unpacked_ = 0;
};

}  // namespace fireq::sm90
