#include "fireq/backends/sm90/attn_decode_i4/kernel.cuh"
#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/attn_decode_i4/listed_kernel.cuh"
#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {
namespace {

// `of_mode` is a kernel's third parameter: what it writes tokens with, or its lists.
template <class Mode>
void Launch(void (*kernel)(AttnDecodeParams, AttnDecodeShared, Mode), const AttnDecodePlan& plan,
            const AttnDecodeParams& params, const Mode& of_mode, bool programmatic,
            cudaStream_t stream) {
  // Of the current device, so at every launch.
  FIREQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024));
  FIREQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  cudaLaunchAttribute attributes[2]{};
  unsigned count = 0;
  if (plan.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(plan.cluster), 1, 1};
  }
  if (programmatic) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.ctas));
  config.blockDim = dim3(DecodeThreads(plan.rows, plan.finishes || plan.writes_tokens));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared.bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  FIREQ_CUDA(cudaLaunchKernelEx(&config, kernel, params, plan.shared, of_mode));
}

template <int kDim, class Probs>
void LaunchRows(const AttnDecodePlan& plan, const AttnDecodeParams& params,
                const AttnDecodeArgs& args, cudaStream_t stream) {
  const auto launch = [&](auto kernel, const auto& of_mode) {
    Launch(kernel, plan, params, of_mode, args.programmatic, stream);
  };
  if (args.rope != nullptr) {
    launch(AttnDecodeI4<kDim, 1, Probs, RopeKvWriteParams>, *args.rope);
  } else if (plan.finishes) {
    const int64_t segments = int64_t{params.num_sequences} * params.kv_heads;
    launch(ListedAttnDecodeI4<kDim, Probs>, DecodeLists::At(args.lists, plan.ctas, segments));
  } else if (plan.rows == 8) {
    launch(AttnDecodeI4<kDim, 1, Probs, TokensAreWritten>, TokensAreWritten{});
  } else {
    launch(AttnDecodeI4<kDim, 2, Probs, TokensAreWritten>, TokensAreWritten{});
  }
}

}  // namespace

void LaunchAttnDecodeI4(const AttnDecodePlan& plan, const AttnDecodeArgs& args,
                        cudaStream_t stream) {
  AttnDecodeParams params = args.tensors;
  FIREQ_CHECK(params.kv_heads > 0 && params.num_heads % params.kv_heads == 0, kInvalidArgument,
              "decode attention: ", params.num_heads, " heads over ", params.kv_heads, " KV heads");
  FIREQ_CHECK(plan.writes_tokens == (args.rope != nullptr), kInvalidArgument,
              "decode attention: the plan and the arguments differ in who writes tokens");
  FIREQ_CHECK(args.rope == nullptr || (args.rope->q_norm == nullptr &&
                                       args.rope->k_norm == nullptr && !args.rope->hadamard),
              kInvalidArgument, "decode attention writes no tokens with a norm or a Hadamard");
  FIREQ_CHECK(!plan.finishes || args.lists != nullptr, kInvalidArgument, "decode attention of ",
              params.num_sequences, " sequences has no lists");
  params.group = params.num_heads / params.kv_heads;
  const int64_t tracks = int64_t{params.kv_heads} * plan.row_tiles;
  params.cuts = plan.cuts;
  params.cluster = plan.cluster;
  params.by_cuts = ShortDivisor::Of(plan.cuts);
  params.by_tracks = ShortDivisor::Of(tracks);
  params.by_ctas = ShortDivisor::Of(plan.ctas);
  params.row_tiles = plan.row_tiles;
  params.stages = plan.stages;
  const auto launch =
      plan.head_dim == 128
          ? (args.e4m3_probs ? LaunchRows<128, ProbsE4M3> : LaunchRows<128, ProbsHalf>)
          : (args.e4m3_probs ? LaunchRows<64, ProbsE4M3> : LaunchRows<64, ProbsHalf>);
  launch(plan, params, args, stream);
}

}  // namespace fireq::sm90
