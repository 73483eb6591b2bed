// The one instantiation of the chain kernel: a plan's variant that takes the longest token.
#include "fireq/backends/sm90/gemm_i4f8/chain_kernel.cuh"
#include "fireq/backends/sm90/gemm_i4f8/launch.cuh"

namespace fireq::sm90 {

GemmChainInstance GetChainInstance() {
  using Config = StreamConfigOf<kChainVariant>;
  return {GemmI4F8Chain<Config>, Config::kThreads, Config::kSharedBytes};
}

}  // namespace fireq::sm90
