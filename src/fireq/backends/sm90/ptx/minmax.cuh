// Extremes to which a NaN is not lost (PTX ISA: min, max with .NaN).
#pragma once

namespace fireq::sm90 {

__device__ __forceinline__ float MinOrNan(float a, float b) {
  float out;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}
__device__ __forceinline__ float MaxOrNan(float a, float b) {
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}

}  // namespace fireq::sm90
