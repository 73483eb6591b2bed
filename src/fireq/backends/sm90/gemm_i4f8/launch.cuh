// Launches one variant: shared memory, cluster, tensor map, parameters.
#pragma once

#include <array>

#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/stream_kernel.cuh"
#include "fireq/backends/sm90/gemm_i4f8/wide_kernel.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/tensor_map.h"

namespace fireq::sm90 {

using GemmFunction = void (*)(GemmI4F8Params, GemmMaps);

// What a launch needs to know of an instantiation.
struct GemmInstance {
  GemmFunction function;
  int threads;
  int shared_bytes;
  int box_tokens;  // of the tensor map of x
};

template <int kVariant>
using StreamConfigOf =
    StreamConfig<kGemmVariants[kVariant].tokens, kGemmVariants[kVariant].row_blocks,
                 kGemmVariants[kVariant].groups, kGemmVariants[kVariant].groups_per_warpgroup,
                 kGemmVariants[kVariant].resident_groups>;

template <int kVariant, class Epilogue>
GemmInstance MakeInstance() {
  constexpr GemmVariant kV = kGemmVariants[kVariant];
  if constexpr (Epilogue::kSends && !kV.sends()) {
    return {};
  } else if constexpr (kV.kernel == GemmKernel::kStream) {
    using Config = StreamConfigOf<kVariant>;
    static_assert(Config::kHasHelpers == kV.has_helpers());
    return {GemmI4F8Stream<Config, Epilogue>, Config::kThreads, Config::kSharedBytes, kV.tokens};
  } else {
    using Config =
        WideConfig<kV.tokens, kV.row_blocks, kV.groups, kV.wide_cluster, kV.shares_block, kV.deals>;
    return {GemmI4F8Wide<Config, Epilogue>, Config::kThreads, Config::kSharedBytes,
            kV.tokens / Config::kClusterCtas};
  }
}

struct GemmChainParams;
struct GemmChainMaps;
struct GemmChainInstance {
  void (*function)(GemmChainParams, GemmChainMaps);
  int threads;
  int shared_bytes;
};
GemmChainInstance GetChainInstance();  // chain.cu
struct BlockChainParams;
struct BlockChainInstance {
  void (*function)(BlockChainParams);
  int threads;
  int shared_bytes;
};
BlockChainInstance GetBlockChainInstance();  // block.cu

// Defined by one generated source a variant (inst.cu.in).
template <int kVariant>
GemmInstance GetInstance(GemmEpilogue epilogue);

}  // namespace fireq::sm90
