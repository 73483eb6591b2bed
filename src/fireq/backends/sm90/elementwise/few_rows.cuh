// Launches for few rows, which want more threads each: what a thread does with its values is then
// the time of the kernel.
#pragma once

#include "fireq/backends/sm90/elementwise/row_quant.cuh"

namespace fireq::sm90 {

inline constexpr int64_t kFewRows = 264;  // two CTAs a multiprocessor

// A launch for rows of kColumns values.
template <template <int, int, bool> class Kernel, int kColumns, int kVectors, int kThreads,
          class Args>
bool LaunchRowsOf(const Args& args, const char* name, cudaStream_t stream) {
  static_assert(kThreads % 32 == 0 && kVectors * kThreads * kVectorWidth == kColumns);
  if (args.k != kColumns) return false;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(args.rows));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const auto kernel = Kernel<kVectors, kThreads, true>::kFunction;
  CheckCuda(cudaLaunchKernelEx(&config, kernel, args), name);
  return true;
}

// Whether rows are so few, and of a length that a launch here fits, and have been launched.
template <template <int, int, bool> class Kernel, class Args>
bool LaunchFewRows(const Args& args, const char* name, cudaStream_t stream) {
  if (args.rows < 1 || args.rows > kFewRows) return false;
  return LaunchRowsOf<Kernel, 4096, 1, 512>(args, name, stream) ||
         LaunchRowsOf<Kernel, 14336, 4, 448>(args, name, stream);
}

}  // namespace fireq::sm90
