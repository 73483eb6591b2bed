// Plain token quantisation of BF16 rows: reads 2 bytes and writes 1 a value; the read is the cost.
#include "fireq/backends/sm90/elementwise/few_rows.cuh"

namespace fireq::sm90 {
namespace {

// Until row `index` may be read, by all threads of the CTA.
__device__ __forceinline__ void WaitForRow(const RowsReady& ready, int64_t index) {
  if (index >= ready.before) return GridDependencyWait();
  if (threadIdx.x == 0) {
    uint32_t* count = ready.counts + static_cast<int>(index) / ready.rows;
    while (LoadAcquire(count) < ready.full) __nanosleep(100);
    AddWrapping(count, ready.full + static_cast<uint32_t>(ready.rows) - 1);
  }
  __syncthreads();
}

template <int kVectors, int kThreads, bool kFull>
__global__ void __launch_bounds__(kThreads) QuantizeRows(QuantizeRowsArgs args) {
  __shared__ float slots[2 * kThreads / 32];
  GridDependencyLaunch();
  Row<kVectors, kThreads, kFull> row(args.k);
  const int64_t index = blockIdx.x;
  WaitForRow(args.ready, index);
  const auto* x = reinterpret_cast<const uint4*>(args.x) + index * row.count;
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) packed[v] = row.Has(v) ? x[row.Index(v)] : uint4{0, 0, 0, 0};
  const RowStats stats = CombineWarps<kThreads>({0.0f, LargestBits(packed)}, slots);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) UnpackBf16(packed[v], row.value[v]);
  WriteRow(row, 1.0f, __uint_as_float(stats.bits), GlobalRow(args.out, index, row.columns()));
}

template <int kVectors, int kThreads, bool kFull>
struct Kernel {
  static constexpr auto kFunction = QuantizeRows<kVectors, kThreads, kFull>;
};

}  // namespace

void LaunchQuantizeRows(const QuantizeRowsArgs& args, cudaStream_t stream) {
  if (LaunchFewRows<Kernel>(args, "quantize_rows", stream)) return;
  LaunchRows<Kernel>(args, "quantize_rows", stream);
}

}  // namespace fireq::sm90
