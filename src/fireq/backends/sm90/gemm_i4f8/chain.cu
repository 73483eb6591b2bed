// The one instantiation of the chain kernel: a plan's variant that takes the longest token.
#include "fireq/backends/sm90/gemm_i4f8/chain_kernel.cuh"
#include "fireq/backends/sm90/gemm_i4f8/launch.cuh"

namespace fireq::sm90 {

GemmChainInstance GetChainInstance() {
  constexpr GemmVariant kV = kGemmVariants[kChainVariant];
  using Config = StreamConfig<kV.tokens, kV.row_blocks, kV.groups, kV.groups_per_warpgroup,
                              kV.resident_groups>;
  return {GemmI4F8Chain<Config>, Config::kThreads, Config::kSharedBytes};
}

}  // namespace fireq::sm90
