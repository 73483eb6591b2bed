#include "fireq/backends/sm90/attn_prefill/kernel.cuh"
#include "fireq/backends/sm90/attn_prefill/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/programmatic_launch.h"

namespace fireq::sm90 {
namespace {

template <int kDim, int kTerms, PrefillSource kSource>
void LaunchAttention(const AttnPrefillPlan& plan, AttnPrefillParams params, bool programmatic,
                     cudaStream_t stream) {
  const auto kernel = AttnPrefill<kDim, kTerms, kSource>;
  constexpr int kSharedBytes = static_cast<int>(sizeof(PrefillShared<kDim, kSource>));
  static_assert(kSharedBytes <= 227 * 1024);
  // Of the current device, so at every launch.
  FIREQ_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  for (int part = 0; part < kTerms; ++part) {
    params.first_channel = part * (kDim / kTerms);
    FIREQ_CUDA(LaunchProgrammatic(
        kernel,
        {.grid = dim3(static_cast<unsigned>(plan.ctas)),
         .threads = kPrefillThreads,
         .shared_bytes = kSharedBytes,
         .programmatic = kSource == PrefillSource::kTiles && programmatic && part == 0},
        params, stream));
    params.halves = 0;  // all there
  }
}

template <int kDim, PrefillSource kSource>
void LaunchTerms(const AttnPrefillPlan& plan, const AttnPrefillArgs& args,
                 const AttnPrefillParams& params, cudaStream_t stream) {
  (args.e4m3_probs ? LaunchAttention<kDim, 1, kSource>
                   : LaunchAttention<kDim, 2, kSource>)(plan, params, args.programmatic, stream);
}

template <int kDim>
void LaunchDim(const AttnPrefillPlan& plan, const AttnPrefillArgs& args,
               const AttnPrefillParams& params, cudaStream_t stream) {
  (plan.tiles.empty() ? LaunchTerms<kDim, PrefillSource::kPages>
                      : LaunchTerms<kDim, PrefillSource::kTiles>)(plan, args, params, stream);
}

}  // namespace

void LaunchAttnPrefill(const AttnPrefillPlan& plan, const AttnPrefillArgs& args,
                       cudaStream_t stream) {
  AttnPrefillParams params = args.tensors;
  FIREQ_CHECK(params.kv_heads > 0 && params.num_heads % params.kv_heads == 0, kInvalidArgument,
              "prefill attention: ", params.num_heads, " heads over ", params.kv_heads,
              " KV heads");
  const int64_t pieces = static_cast<int64_t>(plan.items.size()) * params.kv_heads;
  FIREQ_CHECK(pieces < int64_t{1} << 31, kInvalidArgument, "prefill attention: ", pieces,
              " pieces of work");
  if (pieces == 0) return;
  FIREQ_CHECK(plan.tiles.empty() || (params.tiles != nullptr && params.workspace != nullptr &&
                                     params.progress != nullptr),
              kInvalidArgument, "prefill attention: a plan with tiles, and no workspace");
  params.halves = kPrefillHalves * static_cast<uint32_t>(plan.tiles.size());
  params.group = params.num_heads / params.kv_heads;
  (plan.head_dim == 128 ? LaunchDim<128> : LaunchDim<64>)(plan, args, params, stream);
}

}  // namespace fireq::sm90
