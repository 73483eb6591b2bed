// What names the accumulators of a wgmma in its asm: FIREQ_TENS(t) stands for the numbers %t0 to
// %t9 (FIREQ_TENS() for %0 to %9, FIREQ_TENS4(t) for the first four), FIREQ_ACC16(o) for the
// operands d[o] to d[o + 15].
#pragma once

// clang-format off
#define FIREQ_TENS2(t) "%" #t "0,%" #t "1"
#define FIREQ_TENS4(t) FIREQ_TENS2(t) ",%" #t "2,%" #t "3"
#define FIREQ_TENS6(t) FIREQ_TENS4(t) ",%" #t "4,%" #t "5"
#define FIREQ_TENS8(t) FIREQ_TENS6(t) ",%" #t "6,%" #t "7"
#define FIREQ_TENS(t) FIREQ_TENS8(t) ",%" #t "8,%" #t "9"
#define FIREQ_ACC4(o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3])
#define FIREQ_ACC8(o) FIREQ_ACC4(o), FIREQ_ACC4(o + 4)
#define FIREQ_ACC16(o) FIREQ_ACC8(o), FIREQ_ACC8(o + 8)
#define FIREQ_ACC32(o) FIREQ_ACC16(o), FIREQ_ACC16(o + 16)
#define FIREQ_ACC64(o) FIREQ_ACC32(o), FIREQ_ACC32(o + 32)
// clang-format on
