#include "fireq/backends/sm90/attn_prefill/kernel.cuh"
#include "fireq/backends/sm90/attn_prefill/launch.h"
#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {
namespace {

template <int kDim, int kTerms>
void Launch(const AttnPrefillPlan& plan, AttnPrefillParams params, cudaStream_t stream) {
  const auto kernel = AttnPrefill<kDim, kTerms>;
  constexpr int kSharedBytes = static_cast<int>(sizeof(PrefillShared<kDim>));
  static_assert(kSharedBytes <= 227 * 1024);
  // Of the current device, so at every launch.
  FIREQ_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  for (int part = 0; part < kTerms; ++part) {
    params.first_channel = part * (kDim / kTerms);
    kernel<<<static_cast<unsigned>(plan.ctas), kPrefillThreads, kSharedBytes, stream>>>(params);
    CheckLaunch("attn_prefill");
  }
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
  params.group = params.num_heads / params.kv_heads;
  params.num_items = static_cast<int32_t>(plan.items.size());
  if (plan.head_dim == 128) {
    (args.e4m3_probs ? Launch<128, 1> : Launch<128, 2>)(plan, params, stream);
  } else {
    (args.e4m3_probs ? Launch<64, 1> : Launch<64, 2>)(plan, params, stream);
  }
}

}  // namespace fireq::sm90
