// Linears of one token, asked for but not queued until it is known what comes next: those between a
// block's attention and the next one's are one launch (gemm_i4f8/launch.h, LaunchGemmChain).
#pragma once

#include <vector>

#include "fireq/backends/sm90/backend/awaited_codes.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"

namespace fireq::sm90 {

// What awaits is queued before any other op is, and before codes are that no linear makes for
// itself.
class AwaitedGemms {
 public:
  explicit AwaitedGemms(const GemmDevice& device);
  // A linear that makes `codes` for itself; alone it is queued as `plan`.
  void Ask(const GemmI4F8Args& gemm, const GemmPlan& plan, const LinearArgs& args,
           const CodesToMake& codes, cudaStream_t stream);
  void Make(cudaStream_t stream);

 private:
  struct Awaited {
    GemmPlan plan;
    LinearArgs args;  // tensors, so that their memory is there as long as it may be read
    CodesToMake codes;
  };
  const GemmDevice& device_;
  DeviceBuffer<uint32_t> meetings_;
  std::vector<GemmI4F8Args> gemms_;
  std::vector<Awaited> awaited_;
};

}  // namespace fireq::sm90
