// What the decode attention kernel is told: pointers and sizes, passed by value.
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"
#include "fireq/formats/bf16.h"

namespace fireq::sm90 {

// Division by a number that the host knows, of numbers whose product with it fits 32 bits; the
// quotient of larger ones may be one too large.
struct ShortDivisor {
  uint32_t inverse = 0;  // 2^32 / divisor, rounded up; 0: of 1

  static ShortDivisor Of(int64_t divisor) {
    if (divisor <= 1) return {};
    return {static_cast<uint32_t>((int64_t{1} << 32) / divisor + 1)};
  }
  FIREQ_HD int32_t Divide(int32_t x) const {
    const uint32_t dividend = static_cast<uint32_t>(x);
#ifdef __CUDA_ARCH__
    return inverse == 0 ? x : static_cast<int32_t>(__umulhi(dividend, inverse));
#else
    return inverse == 0 ? x : static_cast<int32_t>(uint64_t{dividend} * inverse >> 32);
#endif
  }
};

// Everything on the device. Lengths and tables are read by the kernel, so one captured launch
// serves every step of the same num_sequences, as long as max_query_len and max_pages hold.
struct AttnDecodeParams {
  const uint8_t* q = nullptr;            // e4m3 [T, H, Dh]
  const float* scale_q = nullptr;        // f32 [T, H]
  const uint8_t* pages = nullptr;        // KvPageLayout pages of one layer
  const int32_t* query_start = nullptr;  // i32 [S + 1]
  const int32_t* context_len = nullptr;  // i32 [S]; 0 gives a zero output
  const int32_t* page_table = nullptr;   // i32 [S, max_pages]
  bf16_t* out = nullptr;                 // bf16 [T, H, Dh]
  float* workspace = nullptr;            // AttnDecodePlan::workspace_bytes, zeroed once
  int32_t num_sequences = 0;             // S
  int32_t num_heads = 0;                 // H
  int32_t kv_heads = 0;                  // Hk
  int32_t max_pages = 0;
  // Filled in by the launch.
  int32_t group = 1;    // H / Hk
  int32_t cuts = 0;     // CTAs a segment at most, whole clusters; 0: they are fewer
  int32_t cluster = 1;  // CTAs, a power of two; their parts of a segment are added in one of them
  ShortDivisor by_tracks;  // Hk row_tiles
  ShortDivisor by_ctas;
  ShortDivisor by_cuts;
  int32_t row_tiles = 1;  // of kRows query rows, to hold max_query_len * H / Hk of them
  int32_t stages = 0;     // pages of shared memory
};

}  // namespace fireq::sm90
