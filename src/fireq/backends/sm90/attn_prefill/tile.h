// A tile of keys ready for the tensor cores, as it lies in shared memory and in the workspace.
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

inline constexpr int kPrefillKeys = 128;  // of a tile
inline constexpr int kPrefillPages = kPrefillKeys / kTokensPerPage;

// What a key's score and probability are multiplied by, in the order of its page.
struct PrefillScales {
  float score[kTokensPerPage];  // s_k 2^9: codes enter the product as (q - z) 2^-9
  float value[kTokensPerPage];  // 256 s_v / r
  float log_r;                  // r: power of two >= |s_v| of the page
  float inverse_r;
  float unused[30];  // 128-byte multiples
};

// Numbers in device memory that say how far the step is: halves of pages (K or V) that warps have
// taken to unpack, warps that will do nothing more, pieces of work taken of those that are not
// dealt, and from kPrefillReady on of each tile and KV head its halves that are there.
inline constexpr int kPrefillTaken = 0;
inline constexpr int kPrefillDone = 1;
inline constexpr int kPrefillPieces = 2;
inline constexpr int kPrefillReady = 32;
inline constexpr uint32_t kPrefillHalves = 2 * kPrefillPages;  // of a tile

template <int kDim>
struct alignas(128) PrefillTile {
  // E4M3 [64 tokens][Dh] a page, K-major in the 128-byte (Dh 64: 64-byte) swizzle. Row n is token
  // KeyOfRow(n), so that a thread's columns of S are the k of its A fragment of P.
  using Keys = uint8_t[kPrefillPages][kTokensPerPage * kDim];
  // E4M3 [Dh][64 tokens] a page in the 64-byte swizzle: V^T.
  using Values = uint8_t[kPrefillPages][kDim * kTokensPerPage];
  using Scales = PrefillScales[kPrefillPages];

  Keys k;
  Values v;
  Scales scales;
};

// 16-byte chunk c of row `row`, of Dh bytes, lies at c ^ RowSwizzle(row); eight rows on it is the
// same.
template <int kDim>
FIREQ_HD constexpr uint32_t RowSwizzle(uint32_t row) {
  return kDim == 128 ? row & 7 : (row >> 1) & 3;
}

// Row of the K tile for token 16 b + 4 c + e: S's columns 8 j + 2 c + i then hold, for lane c, the
// four tokens 16 b + 4 c .. + 3 that lane c needs as bytes of P.
FIREQ_HD constexpr int RowOfKey(int token) {
  const int c = token >> 2 & 3;
  const int e = token & 3;
  return (token & ~15) + 2 * c + (e & 1) + 8 * (e >> 1);
}

}  // namespace fireq::sm90
