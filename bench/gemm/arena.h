// The buffers of every measurement: made once, random, large enough for all.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bench/gemm/device_data.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/base/math.h"

namespace fireq::bench {

constexpr int64_t kRotateBytes = int64_t{240} << 20;  // four times the L2

// Buffers shared by all measurements: the largest of anything.
struct Arena {
  sm90::DeviceBuffer<uint8_t> weights{int64_t{1} << 30};  // INT4 tiles
  sm90::DeviceBuffer<uint8_t> fp8{int64_t{1} << 30};
  sm90::DeviceBuffer<uint16_t> fp16{int64_t{1} << 29};
  sm90::DeviceBuffer<uint8_t> x8{int64_t{16384} * 14336};
  sm90::DeviceBuffer<uint16_t> x16{int64_t{16384} * 14336};
  sm90::DeviceBuffer<float> x_scales{16384}, x_sums{int64_t{16384} * 112}, row_scales{28672};
  sm90::DeviceBuffer<uint16_t> y{int64_t{16384} * 28672};
  sm90::DeviceBuffer<uint32_t> sink{16};
  sm90::DeviceBuffer<uint8_t> workspace{sm90::GemmWorkspaceBytes({})};

  Arena() {
    workspace.FillBytes(0);
    FillTiles(weights.data(), weights.count() / kTileBytes, false, 1);
    FillE4M3(fp8.data(), fp8.count(), 2);
    FillF16(fp16.data(), fp16.count(), 3);
    FillE4M3(x8.data(), x8.count(), 4);
    FillF16(x16.data(), x16.count(), 5);
    FillFloats(x_scales.data(), x_scales.count(), 1e-4f, 1e-3f, 6);
    FillFloats(x_sums.data(), x_sums.count(), -2000.0f, 2000.0f, 7);
    FillFloats(row_scales.data(), row_scales.count(), 0.25f, 0.25f, 8);
    FIREQ_CUDA(cudaDeviceSynchronize());
  }
};

// How many operands of `bytes` to take in turn.
inline int64_t Copies(int64_t bytes, int64_t room) {
  return std::max<int64_t>(1, std::min(CeilDiv(kRotateBytes, bytes), room / bytes));
}

}  // namespace fireq::bench
