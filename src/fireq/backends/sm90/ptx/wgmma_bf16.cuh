// wgmma: D[64 x N] += A[64 x 16] . B[N x 16]^T of BF16 operands in FP32. D's fragments, descriptors
// (+ 2 for every 16 columns) and rules as in wgmma.cuh; both operands from shared memory.
#pragma once

#include "fireq/backends/sm90/ptx/wgmma.cuh"
#include "fireq/backends/sm90/ptx/wgmma_operands.h"

namespace fireq::sm90 {

template <int N>
struct WgmmaBf16;

// clang-format off
#define FIREQ_WGMMA_BF16(N, REGS, p0, p1, p2, ...)                                                 \
  template <>                                                                                      \
  struct WgmmaBf16<N> {                                                                            \
    static __device__ __forceinline__ void Ss(float (&d)[N / 2], uint64_t a, uint64_t b,           \
                                              int accumulate) {                                    \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2 ", 0;\n"                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGS "}, %" #p0     \
                   ", %" #p1 ", p, 1, 1, 0, 0;\n}\n"                                               \
                   : __VA_ARGS__                                                                   \
                   : "l"(a), "l"(b), "r"(accumulate));                                             \
    }                                                                                              \
  };

FIREQ_WGMMA_BF16(32, FIREQ_TENS() "," FIREQ_TENS6(1),
                 16, 17, 18, FIREQ_ACC16(0))
FIREQ_WGMMA_BF16(64, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS2(3),
                 32, 33, 34, FIREQ_ACC32(0))
FIREQ_WGMMA_BF16(96, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS(3) "," FIREQ_TENS8(4),
                 48, 49, 50, FIREQ_ACC32(0), FIREQ_ACC16(32))
FIREQ_WGMMA_BF16(128, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS(3) "," FIREQ_TENS(4) "," FIREQ_TENS(5) "," FIREQ_TENS4(6),
                 64, 65, 66, FIREQ_ACC64(0))

#undef FIREQ_WGMMA_BF16
// clang-format on

}  // namespace fireq::sm90
