#include "fireq/backends/sm90/backend/awaited_gemms.h"

namespace fireq::sm90 {

AwaitedGemms::AwaitedGemms(const GemmDevice& device)
    : device_(device), meetings_(std::vector<uint32_t>{0}) {}

void AwaitedGemms::Ask(const GemmI4F8Args& gemm, const GemmPlan& plan, const LinearArgs& args,
                       const CodesToMake& codes, cudaStream_t stream) {
  if (!FitsGemmChain(gemm, gemms_.size())) Make(stream);
  if (!FitsGemmChain(gemm, gemms_.size())) return LaunchGemmI4F8(plan, gemm, stream);
  gemms_.push_back(gemm);
  awaited_.push_back({plan, args, codes});
  if (gemms_.size() == kMaxGemmChain) Make(stream);
}

void AwaitedGemms::Make(cudaStream_t stream) {
  if (gemms_.empty()) return;
  if (gemms_.size() == 1) {
    LaunchGemmI4F8(awaited_[0].plan, gemms_[0], stream);
  } else {
    LaunchGemmChain(gemms_, device_, meetings_.data(), stream);
  }
  gemms_.clear();
  awaited_.clear();
}

}  // namespace fireq::sm90
