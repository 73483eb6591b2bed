// A GemmCase in device memory, and launches of it.
#pragma once

#include <vector>

#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "tests/backends/sm90/gemm_i4f8/gemm_case.h"

namespace fireq::sm90 {

struct DeviceCase {
  const GemmCase& c;
  DeviceBuffer<uint8_t> tiles{c.tiles}, x{c.x};
  DeviceBuffer<float> row_scales{c.row_scales}, x_scales{c.x_scales}, x_sums{c.x_sums},
      bias{c.bias};
  DeviceBuffer<uint16_t> residual{c.residual};
  DeviceBuffer<uint16_t> y{c.m * c.n + 64};  // 64 elements behind must stay poisoned
  DeviceBuffer<uint8_t> workspace{GemmWorkspaceBytes({})};

  explicit DeviceCase(const GemmCase& host) : c(host) {
    workspace.FillBytes(0);
    FIREQ_CUDA(cudaDeviceSynchronize());
  }

  GemmI4F8Args Args(GemmEpilogue epilogue, OutType out, bool with_bias) const {
    GemmI4F8Args args;
    args.layout = {c.n, c.k};
    args.tiles = tiles.data();
    args.row_scales = row_scales.data();
    args.bias = with_bias ? bias.data() : nullptr;
    args.m = c.m;
    args.x = x.data();
    args.x_scales = x_scales.data();
    args.x_sums = x_sums.data();
    args.epilogue = epilogue;
    args.out = out;
    args.residual = residual.data();
    args.y = y.data();
    args.workspace = workspace.data();
    return args;
  }
  std::vector<uint16_t> Run(const GemmPlan& plan, GemmEpilogue epilogue, OutType out,
                            bool with_bias) {
    return Run(plan, Args(epilogue, out, with_bias));
  }
  std::vector<uint16_t> Run(const GemmPlan& plan, const GemmI4F8Args& args) {
    y.FillBytes(0xFF);  // NaN in BF16 and FP16
    const Stream stream;
    LaunchGemmI4F8(plan, args, stream.get());
    stream.Synchronize();
    return y.ToHost();
  }
};

}  // namespace fireq::sm90
