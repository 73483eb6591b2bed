// The engine's clock, in microseconds.
#pragma once

#include <chrono>
#include <cstdint>

namespace fireq {

using EngineClock = std::chrono::steady_clock;

inline int64_t ElapsedUs(EngineClock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(EngineClock::now() - start).count();
}

}  // namespace fireq
