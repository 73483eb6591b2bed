// The wide kernel's way from a warpgroup's sums to shared memory, from where the copy engine takes
// them: scaled, transposed to [token][output], swizzled as the boxes of GemmMaps::outputs are. A
// residual comes the other way first, into the same places.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

template <class Epilogue>
inline constexpr bool kAddsResidual = requires {
  Epilogue::Add(OutType::kBf16, 0u, 0u);
};

// Outputs of a token of a warpgroup's rows, and bytes of a chunk of tokens.
template <class Epilogue>
inline constexpr int kWideOutRows = kTileRows / Epilogue::kRowsPerOutput;
template <class Epilogue>
inline constexpr int kWideChunkBytes = kWideOutTokens* kWideOutRows<Epilogue> * 2;

template <class Epilogue>
struct WideEpilogue {
  static constexpr int kSums = kWideOutTokens / 2;  // of a thread, a chunk

  uint32_t to;          // this lane's row of the first store of a chunk
  const float* scales;  // of the lane's first pair of tokens
  float scale[2];       // of the thread's two rows
  float bias[2];

  // Reads what it needs of memory; called while products are still running, so that the latency is
  // not in the way. `block`: the warpgroup's, of 64 packed rows.
  __device__ WideEpilogue(const GemmI4F8Params& p, const uint8_t* out, const float* token_scales,
                          int thread, int block) {
    const int warp = thread / 32, lane = thread % 32;
    const int row = min(block, p.row_blocks - 1) * kTileRows + 16 * warp + lane / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h] = __ldg(p.row_scales + row + 8 * h);
      bias[h] = p.bias != nullptr ? __ldg(p.bias + row + 8 * h) : 0.0f;
    }
    scales = token_scales + 2 * (lane % 4);
    // Pieces of 16 bytes: 8 (SiLU: 4) a token, exchanged by the token's place in 1024 (512) bytes.
    if constexpr (Epilogue::kRowsPerOutput == 2) {
      to = SharedAddress(out) + lane * 64 + (warp ^ lane / 2 % 4) * 16;
    } else {
      const int token = lane % 8 + lane / 16 * 8, piece = 2 * warp + lane / 8 % 2;
      to = SharedAddress(out) + token * 128 + (piece ^ lane % 8) * 16;
    }
  }

  // What a chunk needs of shared memory: token scales, residuals.
  struct ChunkInputs {
    float2 scale[4];
    uint4 residual[2];
  };
  __device__ __forceinline__ ChunkInputs Inputs(int c) const {
    ChunkInputs in;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      in.scale[j] = *reinterpret_cast<const float2*>(scales + c * kWideOutTokens + 8 * j);
    if constexpr (kAddsResidual<Epilogue>) {
#pragma unroll
      for (int i = 0; i < 2; ++i) in.residual[i] = LoadMatrix4Trans(Place(c, i));
    }
    return in;
  }
  // Of 16 tokens, half i of chunk c.
  __device__ uint32_t Place(int c, int i) const {
    return to + c * kWideChunkBytes<Epilogue> + i * (16 * kTileRows * 2);
  }

  // Scaled sums of packed rows (row, row + 8) and tokens 8 j + 2 (lane % 4) + {0, 1} of a chunk.
  struct Quad {
    float v[4];  // [row half][token]
  };
  __device__ Quad Scaled(const float (&sums)[kSums], const ChunkInputs& in, int j) const {
    Quad out;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      out.v[2 * h] = fmaf(sums[4 * j + 2 * h], in.scale[j].x * scale[h], bias[h]);
      out.v[2 * h + 1] = fmaf(sums[4 * j + 2 * h + 1], in.scale[j].y * scale[h], bias[h]);
    }
    return out;
  }

  // Chunk c of the tile's tokens.
  __device__ __forceinline__ void StoreChunk(OutType type, const float (&sums)[kSums], int c,
                                             const ChunkInputs& in) const {
    if constexpr (Epilogue::kRowsPerOutput == 2) {
      uint32_t packed[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Quad q = Scaled(sums, in, j);
        packed[j] = PackOut(type, Silu(q.v[0]) * q.v[2], Silu(q.v[1]) * q.v[3]);
      }
      StoreMatrix4Trans(Place(c, 0), {packed[0], packed[1], packed[2], packed[3]});
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Quad a = Scaled(sums, in, 2 * i), b = Scaled(sums, in, 2 * i + 1);
        uint4 v{PackOut(type, a.v[0], a.v[1]), PackOut(type, a.v[2], a.v[3]),
                PackOut(type, b.v[0], b.v[1]), PackOut(type, b.v[2], b.v[3])};
        if constexpr (kAddsResidual<Epilogue>) {
          const uint4& r = in.residual[i];
          v = {Epilogue::Add(type, v.x, r.x), Epilogue::Add(type, v.y, r.y),
               Epilogue::Add(type, v.z, r.z), Epilogue::Add(type, v.w, r.w)};
        }
        StoreMatrix4Trans(Place(c, i), v);
      }
    }
  }

  // A constant `type` keeps the choice out of it. A chunk's inputs are read before the chunk ahead
  // of it is stored: a warp alone would wait for each read.
  template <int kCount, class HalfStored>
  __device__ __forceinline__ void StoreTile(OutType type, const float (&acc)[kCount],
                                            const HalfStored& half_stored) const {
    ChunkInputs in = Inputs(0);
#pragma unroll
    for (int c = 0; c < kCount / kSums; ++c) {
      const ChunkInputs now = in;
      if (c + 1 < kCount / kSums) in = Inputs(c + 1);
      float sums[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] = acc[c * kSums + i];
      StoreChunk(type, sums, c, now);
      if (c + 1 == CeilDiv(kCount / kSums, 2)) half_stored();
    }
  }
};

}  // namespace fireq::sm90
