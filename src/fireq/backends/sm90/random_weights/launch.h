// Random weights made where they are used (formats/random_weight.h says which).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/formats/bf16.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::sm90 {

// What PackWeightTiles makes of the random weight `seed`: `tiles` U8 [layout.size_bytes()], device.
// Asynchronous on `stream`. Errors: kCuda.
void LaunchRandomTiles(const WeightTileLayout& layout, RowOrder order, uint64_t seed,
                       uint8_t* tiles, cudaStream_t stream);

// out[i] = RandomBf16Of(seed, i, spread), i < count; device. Errors: kCuda.
void LaunchRandomBf16(uint64_t seed, int64_t count, float spread, bf16_t* out, cudaStream_t stream);

}  // namespace fireq::sm90
