// Conversions and byte permutes. At most one instruction a function (PTX ISA 8.x: cvt, prmt, lop3).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace fireq::sm90 {

// cvt.rn.satfinite.e4m3x2.f32: `low` in bits 0..7, `high` in 8..15; NaN gives 0x7F.
__device__ __forceinline__ uint16_t FloatsToE4M3x2(float low, float high) {
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ uint32_t FloatsToE4M3x4(float x0, float x1, float x2, float x3) {
  return static_cast<uint32_t>(FloatsToE4M3x2(x0, x1)) |
         (static_cast<uint32_t>(FloatsToE4M3x2(x2, x3)) << 16);
}

// cvt.rn.f16x2.e4m3x2: exact.
__device__ __forceinline__ uint32_t E4M3x2ToHalf2(uint16_t packed) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(packed));
  return halves;
}

// The same of four, twice: bytes 0 and 1 to `low`, 2 and 3 to `high`.
__device__ __forceinline__ void E4M3x4ToHalves(uint32_t packed, uint32_t& low, uint32_t& high) {
  asm("{\n"
      ".reg .b16 l, h;\n"
      "mov.b32 {l, h}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, l;\n"
      "cvt.rn.f16x2.e4m3x2 %1, h;\n"
      "}\n"
      : "=r"(low), "=r"(high)
      : "r"(packed));
}

// cvt.rn.satfinite.e4m3x2.f16x2, twice: `low` in bytes 0 and 1, `high` in 2 and 3.
__device__ __forceinline__ uint32_t Halves2ToE4M3x4(uint32_t low, uint32_t high) {
  uint32_t packed;
  asm("{\n"
      ".reg .b16 l, h;\n"
      "cvt.rn.satfinite.e4m3x2.f16x2 l, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f16x2 h, %2;\n"
      "mov.b32 %0, {l, h};\n"
      "}\n"
      : "=r"(packed)
      : "r"(low), "r"(high));
  return packed;
}

// fma.rn.f16x2, mul.rn.f16x2 and sub.rn.f16x2: subnormals are kept.
__device__ __forceinline__ uint32_t FmaHalf2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
__device__ __forceinline__ uint32_t MulHalf2(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}
__device__ __forceinline__ uint32_t SubHalf2(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

// cvt.rn.bf16x2.f32 and cvt.rn.f16x2.f32: `low` in bits 0..15.
__device__ __forceinline__ uint32_t FloatsToBf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ uint32_t FloatsToHalf2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ float Bf16LowToFloat(uint32_t packed) {
  return __uint_as_float(packed << 16);
}
__device__ __forceinline__ float Bf16HighToFloat(uint32_t packed) {
  return __uint_as_float(packed & 0xFFFF0000u);
}

// ex2.approx.ftz: 2^x, relative error below 2^-22.
__device__ __forceinline__ float Exp2Approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A half of a pair, twice: an operand modifier of what uses it, where a permute would be an
// instruction.
__device__ __forceinline__ uint32_t LowHalfTwice(uint32_t halves) {
  const __half2 v = __low2half2(*reinterpret_cast<const __half2*>(&halves));
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ uint32_t HighHalfTwice(uint32_t halves) {
  const __half2 v = __high2half2(*reinterpret_cast<const __half2*>(&halves));
  return *reinterpret_cast<const uint32_t*>(&v);
}

// prmt: result byte i is byte (selector nibble i) & 7 of {high, low}; bit 3 of a nibble replicates
// the sign instead, so it must be clear.
__device__ __forceinline__ uint32_t PermuteBytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(low), "r"(high), "r"(selector));
  return out;
}

// lop3 with the truth table kTable (0xF0, 0xCC, 0xAA stand for a, b, c).
template <int kTable>
__device__ __forceinline__ uint32_t Lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(out) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return out;
}

}  // namespace fireq::sm90
