// RMSNorm (after an optional residual add) straight to E4M3 rows.
#include <type_traits>

#include "fireq/backends/sm90/elementwise/few_rows.h"

#include "fireq/backends/sm90/elementwise/few_rows.cuh"

namespace fireq::sm90 {
namespace {

// The thread's first vector of a row. An offset of 32 bits is not kept, as the thread's index would
// be, in two registers.
__device__ __forceinline__ const uint4* First(const uint4* row) {
  return reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(row) + 16U * threadIdx.x);
}

// A row of BF16 on its way: to registers, asked for when this is made.
template <class AnyRow>
struct ToRegisters {
  struct Shared {};
  uint4 vector[AnyRow::kVectors];
  __device__ __forceinline__ ToRegisters(const AnyRow& row, const uint4* from, Shared& /*to*/) {
#pragma unroll
    for (int v = 0; v < AnyRow::kVectors; ++v)
      vector[v] = row.Has(v) ? First(from)[v * AnyRow::kThreads] : uint4{0, 0, 0, 0};
  }
  __device__ __forceinline__ void Await() const {}
  __device__ __forceinline__ uint4 At(const AnyRow& /*row*/, int v) const { return vector[v]; }
};

// The same to shared memory: on its way it takes no registers, and so a multiprocessor holds more
// rows; but the next kernel, that may start early, finds less of the memory. A thread reads what it
// has copied itself.
template <class AnyRow>
struct ToShared {
  struct Shared {
    uint4 vector[AnyRow::kVectors * AnyRow::kThreads];
  };
  const Shared& shared;
  __device__ __forceinline__ ToShared(const AnyRow& row, const uint4* from, Shared& to)
      : shared(to) {
#pragma unroll
    for (int v = 0; v < AnyRow::kVectors; ++v)
      if (row.Has(v))
        CopyAsync128(SharedAddress(to.vector + row.Index(v)), First(from) + v * AnyRow::kThreads);
  }
  __device__ __forceinline__ void Await() const { CopyAsyncWait(); }
  __device__ __forceinline__ uint4 At(const AnyRow& row, int v) const {
    return row.Has(v) ? shared.vector[row.Index(v)] : uint4{0, 0, 0, 0};
  }
};

// What is normalised: x, or x and a residual, whose sum is written. All of both is on its way
// before any of the sum, which may be in the place of one, is written.
template <class AnyRow, template <class> class Arrival>
class JustX {
 public:
  struct Shared {
    typename Arrival<AnyRow>::Shared x;
  };
  __device__ __forceinline__ JustX(const AnyRow& row, const RmsNormQuantArgs& args, int64_t first,
                                   Shared& shared)
      : x_(row, reinterpret_cast<const uint4*>(args.x) + first, shared.x) {
    x_.Await();
  }
  __device__ __forceinline__ uint4 Take(const AnyRow& row, int v) const { return x_.At(row, v); }

 private:
  Arrival<AnyRow> x_;
};

template <class AnyRow, template <class> class Arrival>
class WithResidual {
 public:
  struct Shared {
    typename Arrival<AnyRow>::Shared x, residual;
  };
  __device__ __forceinline__ WithResidual(const AnyRow& row, const RmsNormQuantArgs& args,
                                          int64_t first, Shared& shared)
      : x_(row, reinterpret_cast<const uint4*>(args.x) + first, shared.x),
        residual_(row, reinterpret_cast<const uint4*>(args.residual) + first, shared.residual),
        sum_(reinterpret_cast<uint4*>(args.sum) + first) {
    x_.Await();
    residual_.Await();
  }
  __device__ __forceinline__ uint4 Take(const AnyRow& row, int v) const {
    const uint4 sum = AddBf16(x_.At(row, v), residual_.At(row, v));
    if (row.Has(v)) sum_[row.Index(v)] = sum;
    return sum;
  }

 private:
  Arrival<AnyRow> x_, residual_;
  uint4* sum_;
};

// CTAs that a multiprocessor holds if a thread has so many registers.
constexpr int CtasWith(int registers, int threads) { return 65536 / (registers * threads); }

// kCtas: how many a multiprocessor is to hold; 0: as it comes.
template <class Input, class AnyRow, int kCtas>
__global__ void __launch_bounds__(AnyRow::kThreads, kCtas) RmsNormQuant(RmsNormQuantArgs args) {
  __shared__ float slots[2 * AnyRow::kThreads / 32];
  __shared__ typename Input::Shared shared;
  GridDependencyLaunch();
  // Where rows are few (few_rows.cuh) a thread has one vector, and its weights are at hand before
  // the row is; elsewhere their registers would cost a multiprocessor CTAs.
  const auto weights = [&] {
    if constexpr (AnyRow::kFull && AnyRow::kVectors == 1) {
      return WeightsAtHand<AnyRow>(args.weight, args.k);
    } else {
      return WeightsInMemory{args.weight};
    }
  }();
  GridDependencyWait();
  AnyRow row(args.k);
  const int64_t index = blockIdx.x, k = row.columns();
  const Input input(row, args, index * row.count, shared);
#pragma unroll
  for (int v = 0; v < AnyRow::kVectors; ++v) UnpackBf16(input.Take(row, v), row.value[v]);
  const Normalised normalised = Normalise(row, weights, args.eps, k, slots);
  WriteRow(row, normalised.inv_rms, normalised.absmax, GlobalRow(args.out, index, k));
}

// Launches by the number of rows, on which the order of sums depends in Few alone. kRegisters: of a
// thread where rows are many.
template <template <class, template <class> class> class Input, int kRegisters>
struct Launches {
  template <int kVectors, int kThreads, bool kFull>
  struct Kernel {
    using AnyRow = Row<kVectors, kThreads, kFull>;
    static constexpr int kCtas = kVectors == 4 && kThreads <= 256 ? CtasWith(56, kThreads) : 0;
    static constexpr auto kFunction = RmsNormQuant<Input<AnyRow, ToRegisters>, AnyRow, kCtas>;
  };
  template <int kVectors, int kThreads, bool kFull>
  struct KernelOfMany {
    using AnyRow = Row<kVectors, kThreads, kFull>;
    using Rows = Input<AnyRow, ToShared>;
    static constexpr int kCtas = CtasWith(kRegisters, kThreads);
    static constexpr auto kFunction = RmsNormQuant<Rows, AnyRow, kCtas>;
  };

  static bool Few(const RmsNormQuantArgs& args, cudaStream_t stream) {
    return LaunchFewRows<Kernel>(args, kName, stream);
  }
  // A wave of CTAs is 1320 rows of 4096, 660 of 8192 (without a residual). Rows of 5120 are slower
  // so (NOTES.md).
  static bool Many(const RmsNormQuantArgs& args, cudaStream_t stream) {
    return args.rows > kFewRows &&
           LaunchFirstThatHolds<RowLaunch<KernelOfMany, 4, 128, true, RmsNormQuantArgs>,
                                RowLaunch<KernelOfMany, 4, 256, true, RmsNormQuantArgs>>(
               args, kName, stream);
  }
  static void Any(const RmsNormQuantArgs& args, cudaStream_t stream) {
    if (!Many(args, stream)) LaunchRows<Kernel>(args, kName, stream);
  }

  static constexpr const char* kName = "rmsnorm_quant";
};

using LaunchesOfX = Launches<JustX, 48>;
using LaunchesOfSums = Launches<WithResidual, 56>;

}  // namespace

bool LaunchRmsNormQuantOfFewRows(const RmsNormQuantArgs& args, cudaStream_t stream) {
  return args.residual == nullptr ? LaunchesOfX::Few(args, stream)
                                  : LaunchesOfSums::Few(args, stream);
}

void LaunchRmsNormQuant(const RmsNormQuantArgs& args, cudaStream_t stream) {
  FIREQ_CHECK((args.residual == nullptr) || args.sum != nullptr, kInvalidArgument,
              "rmsnorm_quant: a residual, but no place for the sum");
  return args.residual == nullptr ? LaunchesOfX::Any(args, stream)
                                  : LaunchesOfSums::Any(args, stream);
}

}  // namespace fireq::sm90
