// A member of a turned RoPE pair, written out so that its bits are the same in every kernel,
// whatever the compiler contracts.
#pragma once

namespace fireq::sm90 {

// a of_a + b of_b, of which the second product is rounded. With (cos, -sin) the first member of the
// pair (a, b) once it is turned, with (sin, cos) the second.
__device__ __forceinline__ float Turned(float a, float b, float of_a, float of_b) {
  return __fmaf_rn(a, of_a, __fmul_rn(b, of_b));
}

}  // namespace fireq::sm90
