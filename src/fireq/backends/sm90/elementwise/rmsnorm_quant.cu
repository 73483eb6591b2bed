// RMSNorm (after an optional residual add) straight to E4M3 rows.
#include "fireq/backends/sm90/elementwise/few_rows.h"

#include "fireq/backends/sm90/elementwise/few_rows.cuh"

namespace fireq::sm90 {
namespace {

// How many CTAs a multiprocessor is to hold, those of 56 registers a thread; 0: as it comes.
template <int kVectors, int kThreads>
constexpr int kCtas = kVectors == 4 && kThreads <= 256 ? 65536 / (56 * kThreads) : 0;

template <int kVectors, int kThreads, bool kFull>
__global__ void __launch_bounds__(kThreads, kCtas<kVectors, kThreads>)
    RmsNormQuant(RmsNormQuantArgs args) {
  using ThisRow = Row<kVectors, kThreads, kFull>;
  __shared__ float slots[2 * kThreads / 32];
  GridDependencyLaunch();
  // Where rows are few (few_rows.cuh) a thread has one vector, and its weights are at hand before
  // the row is; elsewhere their registers would cost a multiprocessor CTAs.
  const auto weights = [&] {
    if constexpr (kFull && kVectors == 1) {
      return WeightsAtHand<ThisRow>(args.weight, args.k);
    } else {
      return WeightsInMemory{args.weight};
    }
  }();
  GridDependencyWait();
  ThisRow row(args.k);
  const int64_t index = blockIdx.x;
  const int64_t first = index * args.k / kVectorWidth;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    uint4 packed{0, 0, 0, 0};
    const int64_t at = first + row.Index(v);
    if (row.Has(v)) {
      packed = reinterpret_cast<const uint4*>(args.x)[at];
      if (args.residual != nullptr) {
        packed = AddBf16(packed, reinterpret_cast<const uint4*>(args.residual)[at]);
        reinterpret_cast<uint4*>(args.sum)[at] = packed;
      }
    }
    UnpackBf16(packed, row.value[v]);
  }
  const Normalised normalised = Normalise(row, weights, args.eps, args.k, slots);
  WriteRow(row, normalised.inv_rms, normalised.absmax, GlobalRow(args.out, index, args.k));
}

template <int kVectors, int kThreads, bool kFull>
struct Kernel {
  static constexpr auto kFunction = RmsNormQuant<kVectors, kThreads, kFull>;
};

}  // namespace

bool LaunchRmsNormQuantOfFewRows(const RmsNormQuantArgs& args, cudaStream_t stream) {
  return LaunchFewRows<Kernel>(args, "rmsnorm_quant", stream);
}

void LaunchRmsNormQuant(const RmsNormQuantArgs& args, cudaStream_t stream) {
  FIREQ_CHECK((args.residual == nullptr) || args.sum != nullptr, kInvalidArgument,
              "rmsnorm_quant: a residual, but no place for the sum");
  LaunchRows<Kernel>(args, "rmsnorm_quant", stream);
}

}  // namespace fireq::sm90
