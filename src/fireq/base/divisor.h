// Division by a number that the host knows, on host and device.
#pragma once

#include <cstdint>

#include "fireq/base/macros.h"

namespace fireq {

// A divisor that the host knows: numbers from 0 to 2^31 - 1 are divided by it in three
// instructions. Other divisions take a GPU thirty.
struct Divisor {
  int value = 1;

  constexpr Divisor() = default;
  constexpr explicit Divisor(int divisor) : value(divisor) {
    while ((int64_t{1} << shift_) < divisor) ++shift_;
    // 2^32 (2^shift / divisor - 1), rounded up.
    const uint64_t rest = (uint64_t{1} << shift_) - static_cast<uint64_t>(divisor);
    factor_ = static_cast<uint32_t>((rest << 32) / static_cast<uint64_t>(divisor) + 1);
  }
  FIREQ_HD friend constexpr int operator/(int number, const Divisor& divisor) {
    const auto n = static_cast<uint32_t>(number);
    const auto high = static_cast<uint32_t>(uint64_t{n} * divisor.factor_ >> 32);
    return static_cast<int>((high + n) >> divisor.shift_);
  }

 private:
  uint32_t factor_ = 1;
  uint32_t shift_ = 0;
};

}  // namespace fireq
