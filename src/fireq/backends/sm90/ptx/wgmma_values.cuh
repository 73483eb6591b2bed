// wgmma shapes of attention's second product: N = Dh + 8, the last eight columns of which hold V's
// zero points. Fragments and rules as in wgmma.cuh.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/ptx/wgmma.cuh"

namespace fireq::sm90 {

// clang-format off
#define FIREQ_TENS4(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3"
#define FIREQ_TENS6(t) FIREQ_TENS4(t) ",%" #t "4,%" #t "5"
#define FIREQ_TENS8(t) FIREQ_TENS6(t) ",%" #t "6,%" #t "7"
#define FIREQ_TENS(t) FIREQ_TENS8(t) ",%" #t "8,%" #t "9"
#define FIREQ_ACC4(o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3])
#define FIREQ_ACC8(o) FIREQ_ACC4(o), FIREQ_ACC4(o + 4)
#define FIREQ_ACC16(o) FIREQ_ACC8(o), FIREQ_ACC8(o + 8)
#define FIREQ_ACC32(o) FIREQ_ACC16(o), FIREQ_ACC16(o + 16)
#define FIREQ_WGMMA_RS(N, REGS, p0, p1, p2, p3, p4, p5, ...)                                       \
  template <>                                                                                      \
  struct WgmmaE4M3<N> {                                                                            \
    static __device__ __forceinline__ void Rs(float (&d)[N / 2], const uint32_t (&a)[4],           \
                                              uint64_t b, int accumulate) {                        \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p5 ", 0;\n"                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGS "}, {%" #p0   \
                   ",%" #p1 ",%" #p2 ",%" #p3 "}, %" #p4 ", p, 1, 1;\n}\n"                         \
                   : __VA_ARGS__                                                                   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));         \
    }                                                                                              \
  };

FIREQ_WGMMA_RS(72, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS6(3),
               36, 37, 38, 39, 40, 41, FIREQ_ACC32(0), FIREQ_ACC4(32))
FIREQ_WGMMA_RS(136, FIREQ_TENS() "," FIREQ_TENS(1) "," FIREQ_TENS(2) "," FIREQ_TENS(3) "," FIREQ_TENS(4) "," FIREQ_TENS(5) "," FIREQ_TENS8(6),
               68, 69, 70, 71, 72, 73, FIREQ_ACC32(0), FIREQ_ACC32(32), FIREQ_ACC4(64))

#undef FIREQ_WGMMA_RS
#undef FIREQ_ACC32
#undef FIREQ_ACC16
#undef FIREQ_ACC8
#undef FIREQ_ACC4
#undef FIREQ_TENS
#undef FIREQ_TENS8
#undef FIREQ_TENS6
#undef FIREQ_TENS4
// clang-format on

}  // namespace fireq::sm90
