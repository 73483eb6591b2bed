// One warp unpacks half a page, K or V, from INT4 to E4M3 in the swizzles of wgmma, and turns
// scales into factors. Both get (q - z) 2^-9, exact in E4M3, in sign and magnitude: corrections
// z sum Q and sum P' z outside would lose the last bits to cancellation, because the tensor cores
// add with 13 bits below the largest product.
//
// Load begins: `codes` are the half's, `scales` what lies behind the codes of a page (scales and
// zero points of K and V). Store goes on, with loads kAhead in front of its stores, which the
// compiler cannot tell apart.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/tile.h"
#include "fireq/backends/sm90/ptx/cvt.cuh"

namespace fireq::sm90 {

struct PrefillUnpack {
  static constexpr int kKeyZeros = 4 * kTokensPerPage;  // behind `scales`
  static constexpr int kValueZeros = 5 * kTokensPerPage;

  static __device__ __forceinline__ uint32_t Low(uint32_t w) { return w & 0x0F0F0F0Fu; }
  static __device__ __forceinline__ uint32_t High(uint32_t w) { return (w >> 4) & 0x0F0F0F0Fu; }

  // (x - z) 2^-9 of four bytes x and z in 0..15, as E4M3: |x - z| and a sign bit.
  static __device__ __forceinline__ uint32_t Subtract(uint32_t x, uint32_t z, uint32_t bias) {
    return __vabsdiffu4(x, z) | (~(x + bias) & 0x80808080u);
  }

  // `scales` of the lane's two tokens; zero where they are not among the page's first `valid`.
  static __device__ __forceinline__ uint32_t TwoScales(const uint8_t* scales, uint32_t lane,
                                                       int32_t valid) {
    const int token = 2 * static_cast<int>(lane);
    const uint32_t keep = token + 1 < valid ? 0xFFFFFFFFu : (token < valid ? 0x0000FFFFu : 0u);
    return *reinterpret_cast<const uint32_t*>(scales + 2 * token) & keep;
  }
};

// Load i of the warp brings kTokens tokens; 16 bytes are 32 d of one token, chunks 2 i and 2 i + 1
// of its row. For Dh = 128, 8 tokens on means 4 rows on in RowOfKey's order, which flips bit 2 of
// the swizzle; 16 tokens on mean 16 rows.
template <int kDim, int kAhead>
class PrefillKeyUnpack : PrefillUnpack {
 public:
  static constexpr int kChunks = kDim / 32;  // 16-byte runs of codes of one token
  static constexpr int kTokens = 32 / kChunks;
  static constexpr int kLoads = kTokensPerPage / kTokens;

  __device__ __forceinline__ void Load(const uint8_t* codes, const uint8_t* scales, uint32_t lane,
                                       int32_t valid) {
    scales_ = TwoScales(scales, lane, valid);
    const uint8_t* zeros = scales + kKeyZeros + lane / kChunks;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      ahead_[i] = *reinterpret_cast<const uint4*>(codes + 16 * (lane + 32 * i));
      zero_[i] = zeros[kTokens * i];
    }
  }

  __device__ __forceinline__ void Store(const uint8_t* codes, const uint8_t* scales, uint32_t lane,
                                        uint8_t* k, PrefillScales& to_scales) {
    *reinterpret_cast<float2*>(to_scales.score + 2 * lane) =
        make_float2(Bf16LowToFloat(scales_) * 512.0f, Bf16HighToFloat(scales_) * 512.0f);
    const uint32_t row = static_cast<uint32_t>(RowOfKey(static_cast<int>(lane / kChunks)));
    // 16-byte chunk c of a row lies at c ^ (address bits 7..): rows of 128 or of 64 bytes.
    const uint32_t swizzle = RowSwizzle<kDim>(row);
    const uint32_t place = row * kDim + 16 * (2 * (lane % kChunks) ^ swizzle);
    const uint8_t* zeros = scales + kKeyZeros + lane / kChunks;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint4 w = ahead_[i % kAhead];
      const uint32_t z = (zero_[i % kAhead] & 0xFu) * 0x01010101u;
      if (i + kAhead < kLoads) {
        ahead_[i % kAhead] =
            *reinterpret_cast<const uint4*>(codes + 16 * (lane + 32 * (i + kAhead)));
        zero_[i % kAhead] = zeros[kTokens * (i + kAhead)];
      }
      const uint32_t bias = 0x80808080u - z;
      const bool odd = kDim == 128 && i % 2 == 1;
      uint8_t* to =
          k + (odd ? (place ^ 64) + 4 * kDim : place) + (kDim == 128 ? i / 2 : i) * 16 * kDim;
      uint8_t* to_high =
          k + (odd ? (place ^ 80) + 4 * kDim : place ^ 16) + (kDim == 128 ? i / 2 : i) * 16 * kDim;
      *reinterpret_cast<uint4*>(to) =
          make_uint4(Subtract(Low(w.x), z, bias), Subtract(Low(w.y), z, bias),
                     Subtract(Low(w.z), z, bias), Subtract(Low(w.w), z, bias));
      *reinterpret_cast<uint4*>(to_high) =
          make_uint4(Subtract(High(w.x), z, bias), Subtract(High(w.y), z, bias),
                     Subtract(High(w.z), z, bias), Subtract(High(w.w), z, bias));
    }
  }

 private:
  uint4 ahead_[kAhead];
  uint32_t zero_[kAhead];
  uint32_t scales_;
};

// 8 bytes are 16 tokens of one d: one chunk of V^T's row d. Zero points of tokens that were never
// written may be anything; masked, they leave the codes finite, and those tokens' P' is zero.
// kAhead counts groups of 16 tokens.
template <int kDim, int kAhead>
class PrefillValueUnpack : PrefillUnpack {
 public:
  static constexpr int kRows = kDim / 32;
  static constexpr int kGroups = kTokensPerPage / kVGroupTokens;

  __device__ __forceinline__ void Load(const uint8_t* codes, const uint8_t* scales, uint32_t lane,
                                       int32_t valid) {
    scales_ = TwoScales(scales + 2 * kTokensPerPage, lane, valid);
#pragma unroll
    for (int group = 0; group < kAhead; ++group) LoadGroup(codes, scales, lane, group);
  }

  __device__ __forceinline__ void Store(const uint8_t* codes, const uint8_t* scales, uint32_t lane,
                                        uint8_t* v, PrefillScales& to_scales) {
    StoreScales(lane, to_scales);
    const uint32_t place = lane * kTokensPerPage + 16 * ((lane >> 1) & 3);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const uint4 zero = zero_[group % kAhead];
      const uint4 z = make_uint4(Low(zero.x), Low(zero.y), Low(zero.z), Low(zero.w));
      uint2 codes_of[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) codes_of[i] = ahead_[group % kAhead][i];
      if (group + kAhead < kGroups) LoadGroup(codes, scales, lane, group + kAhead);
      uint8_t* to = v + (place ^ (16 * group));
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const uint2 w = codes_of[i];
        *reinterpret_cast<uint4*>(to + 32 * kTokensPerPage * i) = make_uint4(
            Subtract(Low(w.x), z.x, 0x80808080u - z.x), Subtract(Low(w.y), z.y, 0x80808080u - z.y),
            Subtract(High(w.x), z.z, 0x80808080u - z.z),
            Subtract(High(w.y), z.w, 0x80808080u - z.w));
      }
    }
  }

 private:
  __device__ __forceinline__ void LoadGroup(const uint8_t* codes, const uint8_t* scales,
                                            uint32_t lane, int group) {
    zero_[group % kAhead] =
        *reinterpret_cast<const uint4*>(scales + kValueZeros + kVGroupTokens * group);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      ahead_[group % kAhead][i] =
          *reinterpret_cast<const uint2*>(codes + kVGroupBytes * (lane + kDim * group + 32 * i));
    }
  }

  __device__ __forceinline__ void StoreScales(uint32_t lane, PrefillScales& to) const {
    const float v0 = Bf16LowToFloat(scales_);
    const float v1 = Bf16HighToFloat(scales_);
    const uint32_t top = max(__float_as_uint(v0) & 0x7FFFFFFFu, __float_as_uint(v1) & 0x7FFFFFFFu);
    const uint32_t above = (__reduce_max_sync(0xFFFFFFFFu, top) + 0x007FFFFFu) & 0x7F800000u;
    // A NaN or infinite scale makes its row NaN by itself; r stays a number.
    constexpr uint32_t kSmallest = 27u << 23;  // 2^-100
    const uint32_t r = min(max(kSmallest, above), 0x7E800000u);
    const float unit = __uint_as_float((262u << 23) - r);  // 256 / r
    *reinterpret_cast<float2*>(to.value + 2 * lane) = make_float2(v0 * unit, v1 * unit);
    if (lane == 0) {
      to.log_r = static_cast<float>(static_cast<int>(r >> 23) - 127);
      to.inverse_r = __uint_as_float((254u << 23) - r);
    }
  }

  uint2 ahead_[kAhead][kRows];
  uint4 zero_[kAhead];
  uint32_t scales_;
};

}  // namespace fireq::sm90
