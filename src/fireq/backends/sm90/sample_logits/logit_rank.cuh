// The order in which logits are candidates (larger first, then lower id) as one number.
#pragma once

#include <cmath>
#include <cstdint>

namespace fireq::sm90 {

// Orders as the logits do; 0 for NaN. Both zeros are one.
__device__ __forceinline__ uint32_t LogitKey(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Larger for what comes first; 0 is nobody's.
__device__ __forceinline__ uint64_t LogitRank(uint32_t key, int32_t id) {
  return uint64_t{key} << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int32_t IdOfRank(uint64_t rank) {
  return static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(rank));
}

// A warp: the first of `count` candidates, 0 if there are none; the same in all lanes.
__device__ __forceinline__ uint64_t FirstOfRanks(const uint64_t* ranks, int count) {
  uint64_t first = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) first = max(first, ranks[i]);
  for (int step = 16; step > 0; step /= 2)
    first = max(first, __shfl_xor_sync(0xFFFFFFFFu, first, step));
  return first;
}

// The first so far of those that a thread sees in the order of their ids.
struct FirstLogit {
  float logit = NAN;  // none
  int32_t id = -1;
  __device__ __forceinline__ bool IsBeatenBy(float other) const {
    return !(other <= logit) && other == other;
  }
  __device__ __forceinline__ void See(float other, int32_t its_id) {
    if (!IsBeatenBy(other)) return;
    logit = other;
    id = its_id;
  }
  __device__ uint64_t Rank() const { return id < 0 ? 0 : LogitRank(LogitKey(logit), id); }
};

}  // namespace fireq::sm90
