// wgmma: D[64 x N] += A[64 x 32] . B[N x 32]^T of E4M3 operands in FP32, asynchronously, by the
// four warps of a warpgroup. PTX ISA 8.x, "Asynchronous Warpgroup Level Matrix
// Multiply-Accumulate".
//
// Fragments, for lane l of warp w of the warpgroup. D: register 4 j + 2 h + i holds row
// 16 w + l / 4 + 8 h, column 8 j + 2 (l % 4) + i. A: register 2 c + h holds row 16 w + l / 4 + 8 h,
// bytes 16 c + 4 (l % 4) .. + 3.
//
// Accumulators and A registers in flight must not be touched between WgmmaCommit and the WgmmaWait
// that retires them; an accumulator that is read while a group is in flight across a loop's back
// edge makes ptxas serialise everything (C7514: an error here).
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/ptx/mbarrier.cuh"
#include "fireq/backends/sm90/ptx/wgmma_operands.h"

namespace fireq::sm90 {

// wgmma.fence: before the first wgmma, and whenever registers it reads were written since.
__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending groups are in flight.
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving reads or writes of registers across this point.
template <int kCount>
__device__ __forceinline__ void PinRegisters(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void PinRegisters(uint32_t (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(values[i])::"memory");
}

// Descriptor of a K-major operand in shared memory in the 128-byte swizzle: rows of 128 bytes, 8
// rows an atom of 1024 bytes, atoms behind one another. Step along K inside the atom: + 2 for every
// 32 bytes.
__device__ __forceinline__ uint64_t DescriptorSwizzle128(const void* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kAtomStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnusedLeading = uint64_t{1} << 16;
  return kSwizzle128 | kAtomStride | kUnusedLeading |
         static_cast<uint64_t>((SharedAddress(shared) & 0x3FFFFu) >> 4);
}
// The same for rows of 64 bytes in the 64-byte swizzle (atoms of 512 bytes).
__device__ __forceinline__ uint64_t DescriptorSwizzle64(const void* shared) {
  constexpr uint64_t kSwizzle64 = uint64_t{2} << 62;
  constexpr uint64_t kAtomStride = uint64_t{512 >> 4} << 32;
  constexpr uint64_t kUnusedLeading = uint64_t{1} << 16;
  return kSwizzle64 | kAtomStride | kUnusedLeading |
         static_cast<uint64_t>((SharedAddress(shared) & 0x3FFFFu) >> 4);
}

// Of a K-major operand of eight rows of which only the first counts, a vector whose bytes follow
// one another in shared memory (16-byte aligned): without a swizzle a row's 16 bytes lie behind the
// row's before, so that the others are the vector further on. It is read 112 bytes past its end.
// Step along K: + 2 for every 32 bytes.
__device__ __forceinline__ uint64_t DescriptorOfVector(const void* shared) {
  constexpr uint64_t kNextHalf = uint64_t{16 >> 4} << 16;  // of 32 bytes along K
  constexpr uint64_t kUnusedStride = uint64_t{1} << 32;
  return kUnusedStride | kNextHalf | static_cast<uint64_t>((SharedAddress(shared) & 0x3FFFFu) >> 4);
}

template <int N>
struct WgmmaE4M3;

// clang-format off
// Operand numbers after the accumulators: p0.. p5.
#define FIREQ_WGMMA(N, REGS, p0, p1, p2, p3, p4, p5, ...)                                          \
  template <>                                                                                      \
  struct WgmmaE4M3<N> {                                                                            \
    /* A from registers. */                                                                        \
    static __device__ __forceinline__ void Rs(float (&d)[N / 2], const uint32_t (&a)[4],           \
                                              uint64_t b, int accumulate) {                        \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p5 ", 0;\n"                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGS "}, {%" #p0    \
                   ",%" #p1 ",%" #p2 ",%" #p3 "}, %" #p4 ", p, 1, 1;\n}\n"                         \
                   : __VA_ARGS__                                                                   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));         \
    }                                                                                              \
    /* A from shared memory. */                                                                    \
    static __device__ __forceinline__ void Ss(float (&d)[N / 2], uint64_t a, uint64_t b,           \
                                              int accumulate) {                                    \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2 ", 0;\n"                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGS "}, %" #p0     \
                   ", %" #p1 ", p, 1, 1;\n}\n"                                                     \
                   : __VA_ARGS__                                                                   \
                   : "l"(a), "l"(b), "r"(accumulate));                                             \
    }                                                                                              \
  };

FIREQ_WGMMA(8, FIREQ_TENS4(),
            4, 5, 6, 7, 8, 9, FIREQ_ACC4(0))
FIREQ_WGMMA(16, FIREQ_TENS8(),
            8, 9, 10, 11, 12, 13, FIREQ_ACC8(0))
FIREQ_WGMMA(32, FIREQ_TENS() "," FIREQ_TENS6(1),
            16, 17, 18, 19, 20, 21, FIREQ_ACC16(0))
FIREQ_WGMMA(64, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS2(3),
            32, 33, 34, 35, 36, 37, FIREQ_ACC32(0))
FIREQ_WGMMA(96, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS(3) "," FIREQ_TENS8(4),
            48, 49, 50, 51, 52, 53, FIREQ_ACC32(0), FIREQ_ACC16(32))
FIREQ_WGMMA(128, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS(3) "," FIREQ_TENS(4) "," FIREQ_TENS(5) "," FIREQ_TENS4(6),
            64, 65, 66, 67, 68, 69, FIREQ_ACC64(0))
FIREQ_WGMMA(192, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS(3) "," FIREQ_TENS(4) "," FIREQ_TENS(5) "," FIREQ_TENS(6) "," FIREQ_TENS(7) "," FIREQ_TENS(8) "," FIREQ_TENS6(9),
            96, 97, 98, 99, 100, 101, FIREQ_ACC64(0), FIREQ_ACC32(64))
FIREQ_WGMMA(256, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS(3) "," FIREQ_TENS(4) "," FIREQ_TENS(5) "," FIREQ_TENS(6) "," FIREQ_TENS(7) "," FIREQ_TENS(8) "," FIREQ_TENS(9) "," FIREQ_TENS(10) "," FIREQ_TENS(11) "," FIREQ_TENS8(12),
            128, 129, 130, 131, 132, 133, FIREQ_ACC64(0), FIREQ_ACC64(64))

#undef FIREQ_WGMMA
// clang-format on

}  // namespace fireq::sm90
