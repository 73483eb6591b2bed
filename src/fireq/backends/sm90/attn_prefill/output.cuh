// A consumer warp's 16 finished rows on their way to memory.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/fragment.cuh"
#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

// O, the sums of P V over the sums of P, as BF16 to `out` [T, H, Dh]: channels from where it points
// to on. `sum_of_p` is this lane's share of its rows' sums of P. Through `queries`, Q of all warps'
// rows, of which a warp has multiplied its own: so that eight lanes write 128 bytes of a row, half
// of the channels at a time.
template <int kDim, int kValues>
__device__ __forceinline__ void StorePrefillRows(const PrefillRow* rows, const float (&sum_of_p)[2],
                                                 const float (&sums)[kValues], uint8_t* queries,
                                                 bf16_t* out) {
  float sum[2] = {sum_of_p[0], sum_of_p[1]};
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 2);
    factor[h] = sum[h] == 0.0f ? 0.0f : __fdividef(512.0f / 256.0f, sum[h]);
  }
  constexpr uint32_t kChunks = kDim / 16;  // of 8 channels
  const uint32_t lane = PrefillFragment::Thread() % 32;
  const uint32_t first_row = PrefillFragment::Thread() / 32 * 16;
  uint8_t* staged = queries + first_row * kDim;
  const uint32_t to_row = lane % 16;
  const uint32_t row = lane / kChunks;
#pragma unroll
  for (uint32_t part = 0; part < 2 * kValues / (8 * kChunks); ++part) {
    if (part > 0) __syncwarp();
#pragma unroll
    for (uint32_t j = 0; j < kChunks; j += 2) {
      uint32_t words[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t at = 4 * (part * kChunks + j + i / 2) + 2 * (i % 2);
        words[i] = FloatsToBf16x2(sums[at] * factor[i % 2], sums[at + 1] * factor[i % 2]);
      }
      const uint32_t chunk = (j + lane / 16) ^ RowSwizzle<kDim>(to_row);
      StoreMatrix4(SharedAddress(staged + to_row * kDim + 16 * chunk),
                   make_uint4(words[0], words[1], words[2], words[3]));
    }
    __syncwarp();
#pragma unroll
    for (uint32_t i = 0; i < 16; i += 32 / kChunks) {
      const uint32_t chunk = lane % kChunks;
      const uint4 words =
          LoadShared128(staged + (row + i) * kDim + 16 * (chunk ^ RowSwizzle<kDim>(row + i)));
      const int64_t index = rows[first_row + row + i].index;
      if (index < 0) continue;
      bf16_t* to = out + index * kDim;
      *reinterpret_cast<uint4*>(to + 8 * (part * kChunks + chunk)) = words;
    }
  }
}

}  // namespace fireq::sm90
