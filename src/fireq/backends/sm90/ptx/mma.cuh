// mma.sync and movmatrix: matrix products of one warp. One instruction a function (PTX ISA 8.x,
// "Warp Level Matrix Multiply-Accumulate").
#pragma once

#include <cstdint>

namespace fireq::sm90 {

// mma.m16n8k16, FP16 operands (subnormals exact), FP32 sums: d[16 x 8] += a[16 x 16] b[16 x 8].
// Lane l, r = l / 4, c = l % 4:
//   a0: row r, k 2c, 2c+1   a1: row r+8, same k   a2: row r, k 2c+8, 2c+9   a3: row r+8, the same
//   b0: k 2c, 2c+1 of column r   b1: k 2c+8, 2c+9   d: row r, columns 2c, 2c+1; then row r+8
__device__ __forceinline__ void MmaF16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                       uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// movmatrix.trans: lane l holds elements 2 (l % 4), + 1 of row l / 4 of an 8 x 8 matrix of 16-bit
// elements; returns the same place of its transpose.
__device__ __forceinline__ uint32_t TransposeMatrix(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// mul.rn.f16x2.
__device__ __forceinline__ uint32_t MultiplyHalf2(uint32_t x, uint32_t y) {
  uint32_t product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(x), "r"(y));
  return product;
}

}  // namespace fireq::sm90
