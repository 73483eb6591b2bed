// One warp against one page: S^T = K Q^T, online softmax, O^T += V^T P^T with mma.m16n8k16.
//
// Codes are the A operands straight from the page's bytes: `w & 0x000F000F` is a pair of FP16
// subnormals q 2^-24, `w & 0x00F000F0` a pair q 2^-20, whose partners in B carry a factor 1/16.
// Both are exact. Lane l has r = l / 4, c = l % 4.
//
// QK: k runs over d. Lane c owns the bytes c Dh/8 .. of a key's row, so Q's fragment of lane
// (n, c) is the same d of query row n. Of word i, step 2i takes bytes 0 and 2, step 2i + 1 bytes 1
// and 3; low nibbles are k 2c, 2c + 1, high nibbles k 2c + 8, 2c + 9.
// PV: k runs over tokens. Lane c owns V's group of 16 tokens c, and step j takes from it the tokens
// TokenOf(j, e, h) = 8 h + 4 (j / 2) + j % 2 + 2 e. The keys of S's tile j are therefore: row
// 2 c + e + 8 h is token 16 c + TokenOf(j, e, h); P reaches B's layout by one transpose a tile.
// The zero points of V are row 0 of one more tile of V^T, so sum P' z is the rounded P' exactly.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/mma.cuh"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

// How P' = 256 p s_v / r is rounded; two values to FP16.
struct ProbsE4M3 {  // the served arithmetic
  static __device__ __forceinline__ uint32_t Round(float low, float high) {
    return E4M3x2ToHalf2(FloatsToE4M3x2(low, high));
  }
};
struct ProbsHalf {  // 11 bits: P as good as unrounded
  static __device__ __forceinline__ uint32_t Round(float low, float high) {
    return FloatsToHalf2(low, high);
  }
};

inline constexpr uint32_t kLowNibbles = 0x000F000Fu;
inline constexpr uint32_t kHighNibbles = 0x00F000F0u;
inline constexpr float kCodeUnit = 0x1p24f;  // undoes q 2^-24
inline constexpr float kNoMaximum = -1e30f;  // below every score, and finite
inline constexpr float kSmallestR = 0x1p-100f;

// Smallest power of two >= x, for x >= 0 that is zero or normal.
__device__ __forceinline__ float PowerOfTwoAbove(float x) {
  return __uint_as_float((__float_as_uint(x) + 0x007FFFFFu) & 0x7F800000u);
}
// 1 / x of a power of two.
__device__ __forceinline__ float InversePowerOfTwo(float x) {
  return __uint_as_float(0x7F000000u - __float_as_uint(x));
}

// kDim is Dh, kTiles the number of 8-row tiles of queries.
template <int kDim, int kTiles, class Probs>
struct DecodeWarp {
  static constexpr int kSteps = kDim / 16;  // of k in QK, tiles of d in PV
  static constexpr int kWords = kDim / 32;  // of a key's row that a lane owns
  static constexpr int kChunk = kDim / 8;   // the same in bytes
  static constexpr int kRowBytes = kDim / 2;

  uint32_t q[kTiles][kSteps][2];
  // Of query rows 8 tile + 2 c and + 1: score = s_k (score_scale acc - z score_zero).
  float score_scale[kTiles][2];
  float score_zero[kTiles][2];
  int32_t limit[kTiles][2];  // keys that the row sees
  float maximum[kTiles][2];
  float sum[kTiles][2];          // this lane's part
  float out[kTiles][kSteps][4];  // d rows 16 i + r, + 8; query columns 2 c, + 1
  float zeros[kTiles][4];        // row 0: sum of P' z
  float r;                       // power of two >= |s_v| so far

  __device__ __forceinline__ void Reset() {
    r = kSmallestR;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        maximum[n][i] = kNoMaximum;
        sum[n][i] = 0.0f;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) zeros[n][i] = 0.0f;
#pragma unroll
      for (int j = 0; j < kSteps; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[n][j][i] = 0.0f;
      }
    }
  }

  // The first of the d that lane c of a row's four has in its low nibbles.
  static __device__ __forceinline__ int FirstDim(int c) {
    return c * kChunk / 16 * 32 + c * kChunk % 16;
  }

  // Row `n` of tile `tile` belongs to lanes 4 n .. 4 n + 3; `row` [Dh] are its E4M3 codes, null for
  // a row that is not there. `scale` is scale_q log2(e) / sqrt(Dh).
  __device__ __forceinline__ void LoadQuery(int tile, const uint8_t* row, float scale,
                                            int32_t keys) {
    const int d = FirstDim(threadIdx.x & 3);
    uint32_t low[kWords] = {};
    uint32_t high[kWords] = {};
    if (row != nullptr) {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        low[i] = reinterpret_cast<const uint32_t*>(row + d)[i];
        high[i] = reinterpret_cast<const uint32_t*>(row + d + 16)[i];
      }
    }
    SetQuery(tile, low, high, scale, keys);
  }
  // The same of a row whose words are there: this lane's `low` are of d, `high` of d + 16
  // (FirstDim).
  __device__ __forceinline__ void SetQuery(int tile, const uint32_t (&low)[kWords],
                                           const uint32_t (&high)[kWords], float scale,
                                           int32_t keys) {
    const int c = threadIdx.x & 3;
    const uint32_t kSixteenth = 0x2C002C00u;  // FP16 1/16, twice
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        const uint32_t pick = x == 0 ? 0x0020u : 0x0031u;
        const uint32_t a = E4M3x2ToHalf2(static_cast<uint16_t>(PermuteBytes(low[i], 0, pick)));
        const uint32_t b = E4M3x2ToHalf2(static_cast<uint16_t>(PermuteBytes(high[i], 0, pick)));
        const float2 fa = __half22float2(*reinterpret_cast<const __half2*>(&a));
        const float2 fb = __half22float2(*reinterpret_cast<const __half2*>(&b));
        total += (fa.x + fa.y) + (fb.x + fb.y);
        q[tile][2 * i + x][0] = a;
        q[tile][2 * i + x][1] = MultiplyHalf2(b, kSixteenth);
      }
    }
    total += __shfl_xor_sync(0xFFFFFFFFu, total, 1);
    total += __shfl_xor_sync(0xFFFFFFFFu, total, 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int source = 4 * (2 * c + i);  // a lane of query row 2 c + i
      const float scale_i = __shfl_sync(0xFFFFFFFFu, scale, source);
      score_scale[tile][i] = scale_i * kCodeUnit;
      score_zero[tile][i] = scale_i * __shfl_sync(0xFFFFFFFFu, total, source);
      limit[tile][i] = __shfl_sync(0xFFFFFFFFu, keys, source);
    }
  }

  // Tokens first_token .. first_token + 63 lie in `block`, of which the sequence has those below
  // `context`; `masked` where some row does not see them all. It is no parameter of the template:
  // two copies of a page's 750 instructions are more than stays at hand (NOTES.md).
  __device__ __forceinline__ void Page(const uint8_t* block, int32_t first_token, int32_t context,
                                       bool masked) {
    float score[kTiles][4][4];
    MultiplyKeys(block, score);
    uint32_t p[kTiles][4][2];
    Softmax(block, first_token, context, masked, score, p);
    MultiplyValues(block, p);
  }

 private:
  static __device__ __forceinline__ int R() { return (threadIdx.x & 31) >> 2; }
  static __device__ __forceinline__ int C() { return threadIdx.x & 3; }
  // The token of row r of tile j; row r + 8 is 8 tokens on.
  static __device__ __forceinline__ int FirstToken() { return 16 * (R() >> 1) + 2 * (R() & 1); }
  static constexpr int TokenOf(int j) { return 4 * (j >> 1) + (j & 1); }

  static __device__ __forceinline__ void LoadWords(const uint8_t* from, uint32_t (&w)[kWords]) {
    if constexpr (kWords == 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(from);
      w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    } else {
      const uint2 v = *reinterpret_cast<const uint2*>(from);
      w[0] = v.x, w[1] = v.y;
    }
  }

  __device__ __forceinline__ void MultiplyKeys(const uint8_t* block, float (&score)[kTiles][4][4]) {
    const uint8_t* mine = block + FirstToken() * kRowBytes + C() * kChunk;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t a[kWords];
      uint32_t b[kWords];
      LoadWords(mine + TokenOf(j) * kRowBytes, a);
      LoadWords(mine + (TokenOf(j) + 8) * kRowBytes, b);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) score[n][j][i] = 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const uint32_t x = a[i / 2] >> (i % 2 * 8);
        const uint32_t y = b[i / 2] >> (i % 2 * 8);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          MmaF16(score[n][j], x & kLowNibbles, y & kLowNibbles, x & kHighNibbles, y & kHighNibbles,
                 q[n][i][0], q[n][i][1]);
        }
      }
    }
  }

  // Scale and zero point of this lane's eight tokens: [j][h].
  __device__ __forceinline__ void LoadScales(const uint8_t* scales, float (&s)[4][2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t pair =
            *reinterpret_cast<const uint32_t*>(scales + 2 * (FirstToken() + 4 * i + 8 * h));
        s[2 * i][h] = Bf16LowToFloat(pair);
        s[2 * i + 1][h] = Bf16HighToFloat(pair);
      }
    }
  }
  __device__ __forceinline__ void LoadZeros(const uint8_t* zeros_at, float (&z)[4][2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t pair =
            *reinterpret_cast<const uint16_t*>(zeros_at + FirstToken() + 4 * i + 8 * h);
        z[2 * i][h] = static_cast<float>(pair & 0xFFu);
        z[2 * i + 1][h] = static_cast<float>(pair >> 8);
      }
    }
  }

  // Turns score into the B fragments of P', rescaling what was summed before where a maximum or r
  // has grown.
  __device__ __forceinline__ void Softmax(const uint8_t* block, int32_t first_token,
                                          int32_t context, bool masked,
                                          float (&score)[kTiles][4][4],
                                          uint32_t (&p)[kTiles][4][2]) {
    constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
    float scale[4][2];
    float zero[4][2];
    LoadScales(block + kLayout.k_scale_offset(), scale);
    LoadZeros(block + kLayout.k_zero_offset(), zero);
    const int32_t token = first_token + FirstToken();
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float& x = score[n][j][2 * h + i];
            x = scale[j][h] * (score_scale[n][i] * x - zero[j][h] * score_zero[n][i]);
          }
        }
      }
    }
    LoadScales(block + kLayout.v_scale_offset(), scale);
    if (masked) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int32_t at = token + TokenOf(j) + 8 * h;
          if (at >= context) scale[j][h] = 0.0f;
#pragma unroll
          for (int n = 0; n < kTiles; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i)
              if (at >= limit[n][i]) score[n][j][2 * h + i] = -INFINITY;
          }
        }
      }
    }
    float grown[kTiles][2];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = kNoMaximum;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int h = 0; h < 2; ++h) top = fmaxf(top, score[n][j][2 * h + i]);
        }
        grown[n][i] = ceilf(MaxOverRows(top));
      }
    }
    float top_scale = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) top_scale = fmaxf(top_scale, fabsf(scale[j][h]));
    }
    Rescale(grown, MaxOverRows(top_scale));
    const float unit = 256.0f * InversePowerOfTwo(r);
    const uint32_t kSixteenth = 0x2C002C00u;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float weight = scale[j][h] * unit;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          const float low = Exp2Approx(score[n][j][2 * h] - maximum[n][0]);
          const float high = Exp2Approx(score[n][j][2 * h + 1] - maximum[n][1]);
          sum[n][0] += low;
          sum[n][1] += high;
          uint32_t pair = Probs::Round(low * weight, high * weight);
          if (h == 1) pair = MultiplyHalf2(pair, kSixteenth);
          p[n][j][h] = TransposeMatrix(pair);
        }
      }
    }
  }

  static __device__ __forceinline__ float MaxOverRows(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 4));
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 8));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 16));
  }

  // All factors are powers of two, mostly 1: then nothing is touched.
  __device__ __forceinline__ void Rescale(float (&grown)[kTiles][2], float top_scale) {
    const float new_r = fmaxf(r, PowerOfTwoAbove(top_scale));
    bool changed = new_r != r;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) changed |= grown[n][i] > maximum[n][i];
    }
    if (!__any_sync(0xFFFFFFFFu, changed)) return;
    const float ratio = r * InversePowerOfTwo(new_r);
    r = new_r;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float factor[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float next = fmaxf(maximum[n][i], grown[n][i]);
        factor[i] = Exp2Approx(maximum[n][i] - next);
        maximum[n][i] = next;
        sum[n][i] *= factor[i];
        factor[i] *= ratio;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) zeros[n][i] *= factor[i & 1];
#pragma unroll
      for (int j = 0; j < kSteps; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[n][j][i] *= factor[i & 1];
      }
    }
  }

  __device__ __forceinline__ void MultiplyValues(const uint8_t* block,
                                                 const uint32_t (&p)[kTiles][4][2]) {
    constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
    const uint8_t* mine = block + kLayout.v_offset() + C() * kDim * kVGroupBytes;
    // Step by step of the tokens, so that all tiles' sums are on their way at once.
    uint2 a[kSteps];
    uint2 b[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      a[i] = *reinterpret_cast<const uint2*>(mine + (16 * i + R()) * kVGroupBytes);
      b[i] = *reinterpret_cast<const uint2*>(mine + (16 * i + 8 + R()) * kVGroupBytes);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const uint32_t x = (j < 2 ? a[i].x : a[i].y) >> (j % 2 * 8);
        const uint32_t y = (j < 2 ? b[i].x : b[i].y) >> (j % 2 * 8);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          MmaF16(out[n][i], x & kLowNibbles, y & kLowNibbles, x & kHighNibbles, y & kHighNibbles,
                 p[n][j][0], p[n][j][1]);
        }
      }
    }
    uint4 z = {};
    if (R() == 0) {
      z = *reinterpret_cast<const uint4*>(block + kLayout.v_zero_offset() + 16 * C());
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t x = ((j < 2 ? z.x : z.y) >> (j % 2 * 8)) & 0x00FF00FFu;
      const uint32_t y = ((j < 2 ? z.z : z.w) >> (j % 2 * 8)) & 0x00FF00FFu;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        MmaF16(zeros[n], x, 0, y << 4, 0, p[n][j][0], p[n][j][1]);
      }
    }
  }
};

}  // namespace fireq::sm90
