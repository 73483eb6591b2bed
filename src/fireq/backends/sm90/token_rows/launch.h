// Row-wise kernels around the blocks: embedding, gathering the rows that sample, the final norm.
// Bandwidth-bound and small beside the GEMMs; each reads and writes every byte once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/formats/bf16.h"

namespace fireq::sm90 {

// All pointers: device memory, 16-byte aligned; row lengths are multiples of 8 elements. Each call
// is asynchronous on `stream` and returns at once for no rows. Errors: kInvalidArgument, kCuda.

// out[t] = table[ids[t]]: bf16 [V, D] -> bf16 [T, D]; ids i32 [T], each in [0, V), or ~i for
// max(chosen[i], 0), as EmbedArgs (ops/args.h) has it; `chosen` may be null if there are none.
void LaunchEmbed(const int32_t* ids, const int32_t* chosen, const bf16_t* table, int64_t num_tokens,
                 int64_t dim, bf16_t* out, cudaStream_t stream);

// out[r] = x[rows[r]]: bf16 [T, D] -> bf16 [R, D]; rows i32 [R]. The same copy under another name.
inline void LaunchGatherRows(const bf16_t* x, const int32_t* rows, int64_t num_rows, int64_t dim,
                             bf16_t* out, cudaStream_t stream) {
  LaunchEmbed(rows, nullptr, x, num_rows, dim, out, stream);
}

// out = bf16(x / sqrt(mean(x^2) + eps) * weight), arithmetic in FP32; x, out bf16 [T, D], weight
// f32 [D].
void LaunchRmsNorm(const bf16_t* x, const float* weight, float eps, int64_t num_tokens, int64_t dim,
                   bf16_t* out, cudaStream_t stream);

// out[t, p w + c] = in[p, t, c]: f32 [parts, rows, width] -> f32 [rows, parts width], parts side by
// side; width a multiple of 8.
void LaunchJoinColumns(const float* in, int64_t parts, int64_t rows, int64_t width, float* out,
                       cudaStream_t stream);

// out[i] = in[i]: f16 bits -> f32, `count` a multiple of 8.
void LaunchHalfToFloat(const uint16_t* in, int64_t count, float* out, cudaStream_t stream);

}  // namespace fireq::sm90
