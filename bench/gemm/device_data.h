// Random operands made on the device, and the plain read of bytes that is the floor of a GEMM.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fireq::bench {

// `count` uniformly random E4M3 codes without NaN.
void FillE4M3(uint8_t* data, int64_t count, uint32_t seed);
// `count` random FP16 numbers in (-1, 1).
void FillF16(uint16_t* data, int64_t count, uint32_t seed);
// Weight tiles (formats/weight_i4_tile.h) with random codes, random scales of either sign and
// random zero points (all 8 if `symmetric`).
void FillTiles(uint8_t* tiles, int64_t num_tiles, bool symmetric, uint32_t seed);
void FillFloats(float* data, int64_t count, float low, float high, uint32_t seed);

// h[m, f] = silu(gate) up of FP16 [m, gate | up], f each, a multiple of 8: what stands between the
// two GEMMs of the FP16 peer.
void SiluMulF16(const uint16_t* gate_up, int64_t m, int64_t f, uint16_t* h, cudaStream_t stream);

// Reads `bytes` (a multiple of 16) once with 16-byte loads, `unroll` (4 or 8) in flight a thread.
void ReadBytes(const uint8_t* data, int64_t bytes, int unroll, int ctas_per_sm, uint32_t* sink,
               cudaStream_t stream);

// Of multiprocessor 0: its clock and nanoseconds, to out[0] and out[1].
void ReadClock(unsigned long long* out, cudaStream_t stream);

}  // namespace fireq::bench
