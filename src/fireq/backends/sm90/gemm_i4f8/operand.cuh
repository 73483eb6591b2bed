// From stored codes to wgmma A operands in registers (formats/weight_i4_tile.h has their order).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/wgmma.cuh"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::sm90 {

// The codes of one thread for a group: words 2 s + h of step s and row half h.
struct CodeWords {
  uint32_t word[8];
};
__device__ __forceinline__ CodeWords LoadCodes(const uint8_t* tile, int thread) {
  const uint4 a = LoadShared128(tile + thread * 16);
  const uint4 b = LoadShared128(tile + kTileCodeBytes / 2 + thread * 16);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// *exact*: a code 0..15 in the low bits of a byte is the E4M3 number code * 2^-9. Three
// instructions for eight weights.
inline constexpr float kExactOperandUnit = 512.0f;  // what the operand must be multiplied by

__device__ __forceinline__ void ExactOperands(const CodeWords& codes, uint32_t (&a)[16]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    a[4 * (i / 2) + i % 2] = codes.word[i] & 0x0F0F0F0Fu;
    a[4 * (i / 2) + 2 + i % 2] = (codes.word[i] >> 4) & 0x0F0F0F0Fu;
  }
}

// Scale and scale x zero point of a thread's two rows (row half h), for one group of *exact*.
struct GroupScales {
  float scale[2];       // s * kExactOperandUnit
  float neg_offset[2];  // -s z
};
__device__ __forceinline__ GroupScales LoadGroupScales(const uint8_t* tile, int warp, int lane) {
  uint32_t packed;  // s, z, s', z': a zero point read as E4M3 is z * 2^-9
  asm volatile("ld.shared.u32 %0, [%1];"
               : "=r"(packed)
               : "r"(SharedAddress(tile + kTileCodeBytes + 4 * (8 * warp + lane / 4))));
  GroupScales out;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t halves = E4M3x2ToHalf2(static_cast<uint16_t>(packed >> (16 * h)));
    const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&halves));
    out.scale[h] = values.x * kExactOperandUnit;
    out.neg_offset[h] = -out.scale[h] * values.y;
  }
  return out;
}

// *table*: the 16 products of a row and group, arranged for byte permutes. A code's upper three
// bits select a pair of neighbouring products (2 j, 2 j + 1), its lowest bit which of the two. PRMT
// with selector bit 3 set yields the sign of the selected byte in all its bits, so
//   prmt(even, code) ^ prmt(odd, code ^ 8)
// is the product if `odd` holds each odd product xor the sign (in all bits) of its pair; products
// of a pair have one sign, as only zero lies between a negative and a positive one, and zero has
// both.
struct ProductTable {
  uint32_t even[2];
  uint32_t odd[2];
};

// E4M3((q - z) |s|) for q = 0..15 of every magnitude of s and every z: worked out by the compiler,
// since a hundred instructions a row and group would take a fifth of the integer pipe. Bytes 0..7:
// `even`, 8..15: `odd` of a ProductTable.
struct alignas(16) ProductTables {
  uint8_t bytes[128 * 16][16];
};
constexpr ProductTables MakeProductTables() {
  ProductTables tables{};
  for (int s = 1; s < 127; ++s) {
    const float scale = E4M3ToFloat(static_cast<e4m3_t>(s));
    for (int z = 0; z < 16; ++z) {
      for (int q = 0; q < 16; ++q) {
        const int magnitude = FloatToE4M3(static_cast<float>(q < z ? z - q : q - z) * scale);
        const bool negative = q / 2 < (z + 1) / 2;  // the pair's sign
        tables.bytes[s * 16 + z][q % 2 * 8 + q / 2] = static_cast<uint8_t>(
            q % 2 == 0 ? magnitude | (negative ? 0x80 : 0) : magnitude ^ (negative ? 0x7F : 0));
      }
    }
  }
  return tables;
}
static __device__ constexpr ProductTables kProductTables = MakeProductTables();

// The table of scale code s (of either sign) and zero point z.
__device__ __forceinline__ uint4 LookUpProductTable(uint32_t s, uint32_t z) {
  const auto* rows = reinterpret_cast<const uint4*>(kProductTables.bytes);
  uint4 t = __ldg(rows + (s & 0x7F) * 16 + z);
  // A negative scale flips the sign of every pair, and with it the complement of the odd products.
  const uint32_t even = s & 0x80 ? 0x80808080u : 0u, odd = even - (even >> 7);
  return {t.x ^ even, t.y ^ even, t.z ^ odd, t.w ^ odd};
}

__device__ __forceinline__ void TableOperands(const CodeWords& codes,
                                              const ProductTable (&table)[2], uint32_t (&a)[16]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const ProductTable& t = table[i % 2];
    // Each nibble rotated right by one: the pair in bits 0..2, the choice in bit 3.
    const uint32_t code = Lop3<0xCA>(0x77777777u, codes.word[i] >> 1, codes.word[i] << 3);
    const uint32_t other = code ^ 0x88888888u;
    const uint32_t low =
        PermuteBytes(t.even[0], t.even[1], code) ^ PermuteBytes(t.odd[0], t.odd[1], other);
    const uint32_t high = PermuteBytes(t.even[0], t.even[1], code >> 16) ^
                          PermuteBytes(t.odd[0], t.odd[1], other >> 16);
    a[4 * (i / 2) + i % 2] = PermuteBytes(low, high, 0x6420);
    a[4 * (i / 2) + 2 + i % 2] = PermuteBytes(low, high, 0x7531);
  }
}

// The four wgmma of one group; the first starts from zero if `accumulate` is 0.
template <int kTokens>
__device__ __forceinline__ void MultiplyGroup(float (&acc)[kTokens / 2], const uint32_t (&a)[16],
                                              uint64_t x_descriptor, int accumulate) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint32_t operand[4] = {a[4 * step], a[4 * step + 1], a[4 * step + 2], a[4 * step + 3]};
    // 32 bytes along K inside the 128-byte swizzle atom: + 2 in the descriptor.
    WgmmaE4M3<kTokens>::Rs(acc, operand, x_descriptor + 2 * step, step == 0 ? accumulate : 1);
  }
}

}  // namespace fireq::sm90
