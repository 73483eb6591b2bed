// Linears of one token, asked for but not queued until it is known what comes next: those between a
// block's attention and the next one's are one launch (gemm_i4f8/launch.h, LaunchGemmChain), and
// where attention fits between them so are several blocks (LaunchBlockChain).
#pragma once

#include <vector>

#include "fireq/backends/sm90/backend/awaited_codes.h"
#include "fireq/backends/sm90/backend/awaited_rope.h"
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
  // Whether a linear that writes `y` is the last that awaits, and may be followed by attention.
  bool AwaitsAttention(const void* y) const;
  // Attention that makes what RopeKvWrite would, behind AwaitsAttention(); false: it does not fit.
  bool AskAttention(const AttentionArgs& args, const AskedRope& rope, cudaStream_t stream);
  void Make(cudaStream_t stream) { Make(false, stream); }
  // Of ops that will not be run: attention behind a launch that goes on would wait for it for ever.
  void Drop() { awaited_.clear(); }

 private:
  struct Awaited {
    BlockLink link;
    GemmPlan plan;
    LinearArgs args;  // tensors, so that their memory is there as long as it may be read
    CodesToMake codes;
    AttentionArgs attention;
    AskedRope rope;
  };
  // `goes_on`: the attention behind the last linear is asked for next.
  void Make(bool goes_on, cudaStream_t stream);
  int PlaceOf(const GemmI4F8Args& gemm) const;

  const GemmDevice& device_;
  DeviceBuffer<uint32_t> meetings_;
  DeviceBuffer<uint8_t> exchange_;
  bool blocks_ = true;  // o goes on behind attention, as far as is known
  std::vector<Awaited> awaited_;
};

}  // namespace fireq::sm90
