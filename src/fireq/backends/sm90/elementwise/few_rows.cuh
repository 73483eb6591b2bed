// Launches for few rows, which want more threads each: what a thread does with its values is then
// the time of the kernel.
#pragma once

#include "fireq/backends/sm90/elementwise/row_quant.cuh"

namespace fireq::sm90 {

inline constexpr int64_t kFewRows = 264;  // two CTAs a multiprocessor

// Whether rows are so few, and of a length that a launch here fits, and have been launched.
template <template <int, int, bool> class Kernel, class Args>
bool LaunchFewRows(const Args& args, const char* name, cudaStream_t stream) {
  if (args.rows < 1 || args.rows > kFewRows) return false;
  return LaunchFirstThatHolds<RowLaunch<Kernel, 1, 512, true, Args>,   // 4096
                              RowLaunch<Kernel, 2, 448, true, Args>,   // 7168
                              RowLaunch<Kernel, 4, 448, true, Args>>(  // 14336
      args, name, stream);
}

}  // namespace fireq::sm90
