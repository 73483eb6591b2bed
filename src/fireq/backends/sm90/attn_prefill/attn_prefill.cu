#include <array>

#include "fireq/backends/sm90/attn_prefill/kernel.cuh"
#include "fireq/backends/sm90/attn_prefill/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/programmatic_launch.h"
#include "fireq/backends/sm90/runtime/tensor_map.h"

namespace fireq::sm90 {
namespace {

template <int kDim, int kTerms, PrefillSource kSource>
void LaunchAttention(const AttnPrefillPlan& plan, AttnPrefillKernelParams params, bool programmatic,
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
                 const AttnPrefillKernelParams& params, cudaStream_t stream) {
  (args.e4m3_probs ? LaunchAttention<kDim, 1, kSource>
                   : LaunchAttention<kDim, 2, kSource>)(plan, params, args.programmatic, stream);
}

template <int kDim>
void LaunchDim(const AttnPrefillPlan& plan, const AttnPrefillArgs& args,
               const AttnPrefillKernelParams& params, cudaStream_t stream) {
  (plan.tiles.empty() ? LaunchTerms<kDim, PrefillSource::kPages>
                      : LaunchTerms<kDim, PrefillSource::kTiles>)(plan, args, params, stream);
}

// Lets pieces have their Q by boxes where they can.
void DescribeQueries(const AttnPrefillPlan& plan, int64_t tokens, AttnPrefillKernelParams& params) {
  const auto group = static_cast<uint32_t>(params.group.size);
  params.boxes = kPrefillRows % group == 0;
  if (!params.boxes) return;
  const auto dim = static_cast<uint32_t>(plan.head_dim);
  const auto heads = static_cast<uint64_t>(params.num_heads);
  params.queries =
      MakeTensorMap(CU_TENSOR_MAP_DATA_TYPE_UINT8, params.q,
                    std::array<uint64_t, 3>{dim, heads, static_cast<uint64_t>(tokens)},
                    std::array<uint64_t, 2>{dim, heads * dim},
                    std::array<uint32_t, 3>{dim, group, kPrefillRows / group},
                    dim == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B);
}

}  // namespace

void LaunchAttnPrefill(const AttnPrefillPlan& plan, const AttnPrefillArgs& args,
                       cudaStream_t stream) {
  AttnPrefillKernelParams params{args.tensors};
  FIREQ_CHECK(params.kv_heads > 0 && params.num_heads % params.kv_heads == 0, kInvalidArgument,
              "prefill attention: ", params.num_heads, " heads over ", params.kv_heads,
              " KV heads");
  const int64_t pieces = static_cast<int64_t>(plan.items.size()) * params.kv_heads;
  FIREQ_CHECK(pieces < int64_t{1} << 31, kInvalidArgument, "prefill attention: ", pieces,
              " pieces of work");
  if (pieces == 0) return;
  FIREQ_CHECK(plan.tiles.empty() || (params.tiles != nullptr && params.workspace != nullptr),
              kInvalidArgument, "prefill attention: a plan with tiles, and no workspace");
  FIREQ_CHECK((plan.tiles.empty() && plan.undealt == 0) || params.progress != nullptr,
              kInvalidArgument, "prefill attention: a plan that needs progress, and none");
  const int64_t group = params.num_heads / params.kv_heads;
  const int64_t tokens = int64_t{plan.items.back().first_token} + plan.items.back().query_len;
  FIREQ_CHECK(tokens * group * group < int64_t{1} << 32, kUnsupported,
              "prefill attention: ", tokens, " tokens a step of ", group, " query heads a KV head");
  params.group = {static_cast<int32_t>(group),
                  group == 1 ? 0 : static_cast<uint32_t>(0xFFFFFFFF / group + 1)};
  params.halves = kPrefillHalves * static_cast<uint32_t>(plan.tiles.size());
  params.undealt = static_cast<uint32_t>(plan.undealt);
  params.lead = static_cast<uint32_t>(plan.lead);
  DescribeQueries(plan, tokens, params);
  (plan.head_dim == 128 ? LaunchDim<128> : LaunchDim<64>)(plan, args, params, stream);
}

}  // namespace fireq::sm90
