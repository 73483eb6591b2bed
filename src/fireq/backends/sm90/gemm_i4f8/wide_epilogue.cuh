// The wide kernel's way from a warpgroup's sums to memory: scaled, transposed through shared memory
// in chunks of 32 tokens, written 16 bytes a thread.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/epilogue.cuh"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"

namespace fireq::sm90 {

template <class Config, class Epilogue>
struct WideEpilogue {
  static constexpr int kTokens = Config::kTokens;
  static constexpr bool kAddsResidual = requires { Epilogue::Add(OutType::kBf16, 0u, 0u); };
  static constexpr int kPieces = kTileRows / Epilogue::kRowsPerOutput / 8;  // 16 bytes, of a token
  static constexpr int kTurns = Config::kOutTokens * kPieces / 128;

  const GemmI4F8Params& p;
  uint8_t* shared;  // of the warpgroup: two chunks, then token scales
  int warpgroup;
  int thread;
  int first_token;
  int64_t to;      // element of y: this thread's first piece
  bool stored;     // the rows exist
  float scale[2];  // of the thread's two rows
  float bias[2];

  // Reads what it needs of memory; called while products are still running, so that the latency is
  // not in the way.
  __device__ WideEpilogue(const GemmI4F8Params& params, uint8_t* shared_bytes, int wg, int t,
                          int block, int token)
      : p(params), shared(shared_bytes), warpgroup(wg), thread(t), first_token(token) {
    stored = block < p.row_blocks;
    const int row = min(block, p.row_blocks - 1) * kTileRows + 16 * (thread / 32) + thread % 32 / 4;
    float x_scale[kTokens / 128];
#pragma unroll
    for (int i = 0; i < kTokens / 128; ++i) {
      const int at = token + i * 128 + thread;
      x_scale[i] = at < p.m ? __ldg(p.x_scales + at) : 0.0f;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h] = __ldg(p.row_scales + row + 8 * h);
      bias[h] = p.bias != nullptr ? __ldg(p.bias + row + 8 * h) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kTokens / 128; ++i) Scales()[i * 128 + thread] = x_scale[i];
    to = (first_token + thread / kPieces) * p.ldy + block * (kPieces * 8) + thread % kPieces * 8;
  }

  __device__ float* Scales() const {
    return reinterpret_cast<float*>(shared + 2 * Config::kOutBytes);
  }
  __device__ uint8_t* Chunk(int c) const { return shared + c % 2 * Config::kOutBytes; }

  // Scaled sums of packed rows (row, row + 8) and tokens (j-th pair of this lane).
  struct Quad {
    float v[4];  // [row half][token]
  };
  __device__ Quad Scaled(const float (&acc)[kTokens / 2], int j) const {
    const float2 x_scale = *reinterpret_cast<const float2*>(Scales() + 8 * j + 2 * (thread % 4));
    Quad out;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      out.v[2 * h] = fmaf(acc[4 * j + 2 * h], x_scale.x * scale[h], bias[h]);
      out.v[2 * h + 1] = fmaf(acc[4 * j + 2 * h + 1], x_scale.y * scale[h], bias[h]);
    }
    return out;
  }

  // Tokens 32 c .. 32 c + 31 of the tile to shared memory, transposed: [token][output].
  __device__ void Stage(const float (&acc)[kTokens / 2], int c) const {
    const int warp = thread / 32, l = thread % 32;
    uint8_t* out = Chunk(c);
    if constexpr (Epilogue::kRowsPerOutput == 2) {
      uint32_t packed[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Quad q = Scaled(acc, 4 * c + j);
        packed[j] = PackOut(p.out, Silu(q.v[0]) * q.v[2], Silu(q.v[1]) * q.v[3]);
      }
      StoreMatrix4Trans(out + l * Config::kOutPitch + warp * 16, packed[0], packed[1], packed[2],
                        packed[3]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const Quad a = Scaled(acc, 4 * c + j), b = Scaled(acc, 4 * c + j + 1);
        StoreMatrix4Trans(
            out + (8 * j + l % 8 + l / 16 * 8) * Config::kOutPitch + warp * 32 + l / 8 % 2 * 16,
            PackOut(p.out, a.v[0], a.v[1]), PackOut(p.out, a.v[2], a.v[3]),
            PackOut(p.out, b.v[0], b.v[1]), PackOut(p.out, b.v[2], b.v[3]));
      }
    }
  }

  // Turn `i` of the thread in chunk c: its token's offset in the tile, and its element of y.
  __device__ int TokenOf(int c, int i) const {
    return c * Config::kOutTokens + i * (128 / kPieces) + thread / kPieces;
  }
  __device__ bool Writes(int c, int i) const { return stored && first_token + TokenOf(c, i) < p.m; }
  __device__ int64_t At(int c, int i) const {
    return to + (c * Config::kOutTokens + i * (128 / kPieces)) * p.ldy;
  }

  struct Residual {
    uint4 v[kTurns];
  };
  __device__ Residual LoadResidual(int c) const {
    Residual residual{};
    if constexpr (kAddsResidual) {
#pragma unroll
      for (int i = 0; i < kTurns; ++i)
        if (Writes(c, i)) residual.v[i] = *reinterpret_cast<const uint4*>(p.residual + At(c, i));
    }
    return residual;
  }

  struct Staged {
    uint4 v[kTurns];
  };
  __device__ Staged LoadStaged(int c) const {
    Staged staged;
    const uint8_t* from = Chunk(c) + thread / kPieces * Config::kOutPitch + thread % kPieces * 16;
#pragma unroll
    for (int i = 0; i < kTurns; ++i)
      staged.v[i] = LoadShared128(from + i * (128 / kPieces) * Config::kOutPitch);
    return staged;
  }
  __device__ void Write(int c, const Staged& staged, const Residual& residual) const {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      uint4 v = staged.v[i];
      if constexpr (kAddsResidual) {
        const uint4 r = residual.v[i];
        v = {Epilogue::Add(p.out, v.x, r.x), Epilogue::Add(p.out, v.y, r.y),
             Epilogue::Add(p.out, v.z, r.z), Epilogue::Add(p.out, v.w, r.w)};
      }
      if (Writes(c, i)) StoreGlobal128(p.y + At(c, i), v);
    }
  }

  // Chunks alternate between two buffers, so that one barrier a chunk is enough: whoever passes it
  // has read the chunk before the last. Their number is even. A chunk is on its way out of shared
  // memory while the next one is scaled.
  __device__ void Store(const float (&acc)[kTokens / 2]) const {
    constexpr int kChunks = kTokens / Config::kOutTokens;
    static_assert(kChunks % 2 == 0);
    NamedBarrierSync(1 + warpgroup, 128);  // token scales written -> read
    Residual residual = LoadResidual(0);
    Stage(acc, 0);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      NamedBarrierSync(1 + warpgroup, 128);
      const Staged staged = LoadStaged(c);
      const Residual of_this = residual;
      if (c + 1 < kChunks) {
        residual = LoadResidual(c + 1);
        Stage(acc, c + 1);
      }
      Write(c, staged, of_this);
    }
  }
};

}  // namespace fireq::sm90
