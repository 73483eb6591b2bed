// One CTA a row at a time, the row in registers: what the producers of E4M3 rows share.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "fireq/backends/sm90/elementwise/launch.h"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/mma.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/programmatic_launch.h"
#include "fireq/base/error.h"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/int4.h"

namespace fireq::sm90 {

inline constexpr int kVectorWidth = 8;  // BF16 values in 16 bytes
inline constexpr int kVectorsPerGroup = kGroup / kVectorWidth;

__device__ __forceinline__ bool IsInSecondHalfOfGroup() {
  return threadIdx.x % kVectorsPerGroup >= kVectorsPerGroup / 2;
}

// 8 kVectors values a thread: vector v of a thread is vector v * kThreads + thread of the row.
// kFull: the row has them all, and nothing is asked again.
template <int kVectors_, int kThreads_, bool kFull_ = false>
struct Row {
  static constexpr int kVectors = kVectors_;
  static constexpr int kThreads = kThreads_;
  static constexpr bool kFull = kFull_;
  float value[kVectors][kVectorWidth];
  int count;  // vectors of the row

  __device__ explicit Row(int64_t k)
      : count(kFull ? kVectors * kThreads : static_cast<int>(k / kVectorWidth)) {}
  __device__ static int Index(int v) { return v * kThreads + static_cast<int>(threadIdx.x); }
  __device__ bool Has(int v) const { return kFull || Index(v) < count; }
  // The group that vector v of the thread belongs to.
  __device__ static int Group(int v) {
    static_assert(kThreads % kVectorsPerGroup == 0);
    return v * (kThreads / kVectorsPerGroup) + static_cast<int>(threadIdx.x / kVectorsPerGroup);
  }
  __device__ bool HasGroup(int v) const { return kFull || Group(v) * kVectorsPerGroup < count; }
  __device__ int64_t columns() const { return int64_t{count} * kVectorWidth; }
};

__device__ __forceinline__ void UnpackBf16(const uint4& packed, float (&out)[kVectorWidth]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = Bf16LowToFloat(words[i]);
    out[2 * i + 1] = Bf16HighToFloat(words[i]);
  }
}

// bf16(x + y).
__device__ __forceinline__ uint4 AddBf16(const uint4& x, const uint4& y) {
  float a[kVectorWidth], b[kVectorWidth];
  UnpackBf16(x, a);
  UnpackBf16(y, b);
  return {FloatsToBf16x2(a[0] + b[0], a[1] + b[1]), FloatsToBf16x2(a[2] + b[2], a[3] + b[3]),
          FloatsToBf16x2(a[4] + b[4], a[5] + b[5]), FloatsToBf16x2(a[6] + b[6], a[7] + b[7])};
}

// What the CTA must know of a row before it can write it.
struct RowStats {
  float squares;  // sum of squares
  uint32_t bits;  // the largest magnitude: as unsigned bits a NaN is larger than any number
};

// Combines the warps' statistics over the first kThreads threads of the CTA. `slots`: two words a
// warp, not in use by others.
template <int kThreads>
__device__ __forceinline__ RowStats CombineWarps(RowStats warp, float* slots) {
  constexpr int kWarps = kThreads / 32;
  auto* maxima = reinterpret_cast<uint32_t*>(slots + kWarps);
  if (threadIdx.x % 32 == 0) {
    slots[threadIdx.x / 32] = warp.squares;
    maxima[threadIdx.x / 32] = warp.bits;
  }
  NamedBarrierSync(1, kThreads);
  RowStats all{slots[0], 0};
#pragma unroll
  for (int w = 1; w < kWarps; ++w) all.squares += slots[w];
  const int lane = static_cast<int>(threadIdx.x % 32);
  all.bits = __reduce_max_sync(0xFFFFFFFFu, maxima[min(lane, kWarps - 1)]);
  return all;
}

template <class AnyRow>
__device__ __forceinline__ uint32_t LargestBits(const AnyRow& row) {
  uint32_t bits = 0;
#pragma unroll
  for (const auto& vector : row.value)
#pragma unroll
    for (const float x : vector) bits = max(bits, __float_as_uint(x) & 0x7FFFFFFFu);
  return __reduce_max_sync(0xFFFFFFFFu, bits);
}

// The same of BF16 vectors, two values at once: a NaN's magnitude is larger than any number's here,
// too.
template <int kVectors>
__device__ __forceinline__ uint32_t LargestBits(const uint4 (&packed)[kVectors]) {
  uint32_t both = 0;
#pragma unroll
  for (const uint4& vector : packed)
#pragma unroll
    for (const uint32_t word : {vector.x, vector.y, vector.z, vector.w})
      both = __vmaxu2(both, word & 0x7FFF7FFFu);
  return __reduce_max_sync(0xFFFFFFFFu, max(both << 16, both & 0xFFFF0000u));
}

// Largest magnitude of the row. What a row has not is zero.
template <class AnyRow>
__device__ __forceinline__ float RowAbsMax(const AnyRow& row, float* slots) {
  return __uint_as_float(CombineWarps<AnyRow::kThreads>({0.0f, LargestBits(row)}, slots).bits);
}

// A norm's weights for a thread's vectors of a row: read where they are wanted.
struct WeightsInMemory {
  const float* weights;
  template <class AnyRow>
  __device__ __forceinline__ void Load(const AnyRow& /*row*/, int v,
                                       float (&out)[kVectorWidth]) const {
    // One address for all vectors.
    const auto* from = reinterpret_cast<const float4*>(weights) + 2 * threadIdx.x;
    const float4 low = __ldg(from + 2 * v * AnyRow::kThreads),
                 high = __ldg(from + 2 * v * AnyRow::kThreads + 1);
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
  }
};

// The same, read when this is made: before a row is there, if the kernel in front makes it. They
// are on their way then, and stay where they are written.
template <class AnyRow>
struct WeightsAtHand {
  uint4 half[AnyRow::kVectors][2];
  __device__ __forceinline__ WeightsAtHand(const float* weights, int64_t k) {
    const AnyRow row(k);
#pragma unroll
    for (int v = 0; v < AnyRow::kVectors; ++v)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        half[v][i] = row.Has(v) ? LoadGlobalNow128(weights + row.Index(v) * kVectorWidth + 4 * i)
                                : uint4{0, 0, 0, 0};
  }
  __device__ __forceinline__ void Load(const AnyRow& /*row*/, int v,
                                       float (&out)[kVectorWidth]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t words[4] = {half[v][i].x, half[v][i].y, half[v][i].z, half[v][i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) out[4 * i + j] = __uint_as_float(words[j]);
    }
  }
};

// row *= weight; what the CTA must know of it: squares of before, magnitudes of after, so that it
// waits for the other warps once.
template <class AnyRow, class Weights>
__device__ __forceinline__ RowStats Weigh(AnyRow& row, const Weights& weights, float* slots) {
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < AnyRow::kVectors; ++v) {
    if (!row.Has(v)) continue;
    float w[kVectorWidth];
    weights.Load(row, v, w);
#pragma unroll
    for (int i = 0; i < kVectorWidth; ++i) {
      squares = fmaf(row.value[v][i], row.value[v][i], squares);
      row.value[v][i] *= w[i];
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) squares += __shfl_xor_sync(0xFFFFFFFFu, squares, d);
  return CombineWarps<AnyRow::kThreads>({squares, LargestBits(row)}, slots);
}

// 1 / sqrt(mean of squares + eps), by which a weighed row is to be multiplied yet, and the largest
// magnitude of that.
struct Normalised {
  float inv_rms, absmax;
};
__device__ __forceinline__ Normalised NormaliseBy(const RowStats& row, float eps, int64_t k) {
  const float inv_rms = 1.0f / sqrtf(row.squares / static_cast<float>(k) + eps);
  return {inv_rms, __uint_as_float(row.bits) * inv_rms};
}
template <class AnyRow, class Weights>
__device__ __forceinline__ Normalised Normalise(AnyRow& row, const Weights& weights, float eps,
                                                int64_t k, float* slots) {
  return NormaliseBy(Weigh(row, weights, slots), eps, k);
}

// Sums of codes, of groups: sixteen neighbouring threads. Every one but the last addition is exact
// in FP32, so that no order of them gives other bits.
__device__ __forceinline__ float SumOfGroup(uint2 codes) {
  uint32_t halves[4];
  E4M3x4ToHalves(codes.x, halves[0], halves[1]), E4M3x4ToHalves(codes.y, halves[2], halves[3]);
  float sum = 0.0f;
#pragma unroll
  for (const uint32_t& two : halves) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&two));
    sum += pair.x + pair.y;
  }
#pragma unroll
  for (int d = kVectorsPerGroup / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
  return sum;
}

// The same of two vectors of a thread: the first eight lanes of a group return the sum of `a`'s,
// the others of `b`'s. Four lanes' codes are added by the tensor cores, as products with one.
__device__ __forceinline__ float SumOfTwoGroups(uint2 a, uint2 b) {
  constexpr uint32_t kOnes = 0x3C003C00;  // halves
  uint32_t of_a[4], of_b[4];
  E4M3x4ToHalves(a.x, of_a[0], of_a[1]), E4M3x4ToHalves(a.y, of_a[2], of_a[3]);
  E4M3x4ToHalves(b.x, of_b[0], of_b[1]), E4M3x4ToHalves(b.y, of_b[2], of_b[3]);
  float sums[4] = {};  // of a's in row lane / 4 (twice), of b's in row lane / 4 + 8 (twice)
  MmaF16(sums, of_a[0], of_b[0], of_a[1], of_b[1], kOnes, kOnes);
  MmaF16(sums, of_a[2], of_b[2], of_a[3], of_b[3], kOnes, kOnes);
  const bool second = IsInSecondHalfOfGroup();
  const float other = __shfl_xor_sync(0xFFFFFFFFu, second ? sums[0] : sums[2], 8);
  const float sum = (second ? sums[2] : sums[0]) + other;
  return sum + __shfl_xor_sync(0xFFFFFFFFu, sum, 4);
}

// Where the row `index` of a QuantizedRows goes.
struct GlobalRow {
  const QuantizedRows& out;
  int64_t index, k, groups;
  __device__ GlobalRow(const QuantizedRows& rows, int64_t row, int64_t columns)
      : out(rows), index(row), k(columns), groups((columns + kGroup - 1) / kGroup) {}
  __device__ void Scale(float scale) const { out.scales[index] = scale; }
  __device__ void Codes(int vector, uint2 codes) const {
    *reinterpret_cast<uint2*>(out.codes + index * k + vector * kVectorWidth) = codes;
  }
  __device__ void Sum(int group, float sum) const { out.sums[index * groups + group] = sum; }
};

// Rounds and writes vector v of the row, times `inv_scale`; its codes.
template <class AnyRow, class To>
__device__ __forceinline__ uint2 WriteCodes(const AnyRow& row, int v, float inv_scale,
                                            const To& to) {
  float x[kVectorWidth];
#pragma unroll
  for (int i = 0; i < kVectorWidth; ++i) x[i] = row.Has(v) ? row.value[v][i] * inv_scale : 0.0f;
  const uint2 codes{FloatsToE4M3x4(x[0], x[1], x[2], x[3]), FloatsToE4M3x4(x[4], x[5], x[6], x[7])};
  if (row.Has(v)) to.Codes(row.Index(v), codes);
  return codes;
}

// Rounds and writes the row times `factor`, whose largest magnitude is `absmax`: codes, scale, sums
// of groups. All threads of a warp take part.
template <class AnyRow, class To>
__device__ __forceinline__ void WriteRow(const AnyRow& row, float factor, float absmax,
                                         const To& to) {
  const float inv_scale = factor * MakeTokenScale(absmax).inv_scale;
  if (threadIdx.x == 0) to.Scale(MakeTokenScale(absmax).scale);
#pragma unroll
  for (int v = 0; v < AnyRow::kVectors; v += 2) {
    const uint2 codes = WriteCodes(row, v, inv_scale, to);
    if (v + 1 < AnyRow::kVectors) {
      const float sum = SumOfTwoGroups(codes, WriteCodes(row, v + 1, inv_scale, to));
      const int mine = IsInSecondHalfOfGroup() ? v + 1 : v;
      if (threadIdx.x % (kVectorsPerGroup / 2) == 0 && row.HasGroup(mine))
        to.Sum(row.Group(mine), sum);
    } else {
      const float sum = SumOfGroup(codes);
      if (threadIdx.x % kVectorsPerGroup == 0 && row.HasGroup(v)) to.Sum(row.Group(v), sum);
    }
  }
}

template <template <int, int, bool> class Kernel, int kVectors, int kThreads, bool kFull,
          class Args>
struct RowLaunch {
  static constexpr int kBlock = kThreads;
  static constexpr void (*kFunction)(Args) = Kernel<kVectors, kThreads, kFull>::kFunction;
  static bool Holds(int64_t vectors) {
    return kFull ? vectors == kVectors * kThreads : vectors <= kVectors * kThreads;
  }
};

// Runs the first of the launches that holds a row, a CTA a row; false, and nothing is launched, if
// none does.
template <class... Launches, class Args>
bool LaunchFirstThatHolds(const Args& args, const char* name, cudaStream_t stream) {
  const int64_t vectors = args.k / kVectorWidth;
  void (*function)(Args) = nullptr;
  LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.rows))};
  ((function == nullptr && Launches::Holds(vectors)
        ? void((function = Launches::kFunction, shape.threads = Launches::kBlock))
        : void()),
   ...);
  if (function == nullptr) return false;
  CheckCuda(LaunchProgrammatic(function, shape, args, stream), name);
  return true;
}

// Vectors a thread, and threads. What a thread does once a row is a hundred instructions, so it has
// many values of it; rows of 4096, 5120, 8192 and 14336 have launches that fit, and 352 threads are
// for 11008.
template <template <int, int, bool> class Kernel, class Args>
void LaunchRows(const Args& args, const char* name, cudaStream_t stream) {
  FIREQ_CHECK(args.k > 0 && args.k % 64 == 0 && args.k <= 32768, kUnsupported, name, ": rows of ",
              args.k, ": must be a multiple of 64, at most 32768");
  if (args.rows == 0) return;
  LaunchFirstThatHolds<
      RowLaunch<Kernel, 4, 128, true, Args>, RowLaunch<Kernel, 4, 160, true, Args>,
      RowLaunch<Kernel, 4, 256, true, Args>, RowLaunch<Kernel, 7, 256, true, Args>,
      RowLaunch<Kernel, 1, 256, false, Args>, RowLaunch<Kernel, 3, 256, false, Args>,
      RowLaunch<Kernel, 4, 352, false, Args>, RowLaunch<Kernel, 7, 256, false, Args>,
      RowLaunch<Kernel, 16, 256, false, Args>>(args, name, stream);
}

}  // namespace fireq::sm90
