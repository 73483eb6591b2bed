// Numbers that some CTAs write and others read while both run: word by word, a word is there once
// it is not zero, without a count or a fence between them. Somebody leaves zeros behind, where
// everybody has read and before anybody writes again. Words go inverted: none that numbers are
// packed into has all bits set, as arithmetic and conversions make 0x7FFF... of a NaN.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/elementwise/row_quant.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

__device__ __forceinline__ uint32_t AsWord(uint32_t bits) { return ~bits; }
__device__ __forceinline__ uint32_t AsWord(float x) { return ~__float_as_uint(x); }
__device__ __forceinline__ uint32_t OfWord(uint32_t word) { return ~word; }
__device__ __forceinline__ float FloatOfWord(uint32_t word) { return __uint_as_float(~word); }
__device__ __forceinline__ bool LacksAWord(const uint4& v) {
  return ((v.x == 0) | (v.y == 0) | (v.z == 0) | (v.w == 0)) != 0;
}

// A token of words; or of memory that is complete and as it is.
struct ValuesOfWords {
  const uint4* x;
  uint32_t inverted;  // bits: all or none

  __device__ __forceinline__ ValuesOfWords(const void* values, bool words)
      : x(static_cast<const uint4*>(values)), inverted(words ? 0xFFFFFFFFu : 0) {}
  template <class TokenRow>
  __device__ __forceinline__ void Load(TokenRow& row) const {
    uint4 words[TokenRow::kVectors];
#pragma unroll
    for (int v = 0; v < TokenRow::kVectors; ++v)
      words[v] = row.Has(v) ? LoadRelaxed128(x + row.Index(v))
                            : uint4{inverted, inverted, inverted, inverted};
#pragma unroll
    for (int v = 0; v < TokenRow::kVectors; ++v) {
      while (inverted != 0 && LacksAWord(words[v])) words[v] = LoadRelaxed128(x + row.Index(v));
      UnpackBf16({words[v].x ^ inverted, words[v].y ^ inverted, words[v].z ^ inverted,
                  words[v].w ^ inverted},
                 row.value[v]);
    }
  }
};

}  // namespace fireq::sm90
