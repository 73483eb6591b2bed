// The one instantiation of the kernel of blocks.
#include "fireq/backends/sm90/gemm_i4f8/block_kernel.cuh"
#include "fireq/backends/sm90/gemm_i4f8/launch.cuh"

namespace fireq::sm90 {

BlockChainInstance GetBlockChainInstance() {
  using Config = StreamConfigOf<kChainVariant>;
  return {GemmI4F8Blocks<Config>, Config::kThreads, kBlockSharedBytes<Config>};
}

}  // namespace fireq::sm90
