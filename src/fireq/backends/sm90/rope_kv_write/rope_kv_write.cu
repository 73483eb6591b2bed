#include <algorithm>
#include <type_traits>

#include "fireq/backends/sm90/rope_kv_write/kernel.cuh"
#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/programmatic_launch.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

// Vectors of a step up to which they are spread over more lanes: 128 tokens of 48 heads, a warp
// each and a dozen a scheduler.
constexpr int64_t kFewVectors = 6144;

// Heads that a CTA of long runs takes one after another: as many as leave the GPU a CTA in every
// place (132 SMs of seven).
constexpr int kMostHeads = 4;
constexpr int64_t kWave = 132 * 7;

template <int kDim, RopeRuns kRuns>
void Launch(const RopeKvWriteParams& p, dim3 grid, cudaStream_t stream) {
  FIREQ_CUDA(LaunchProgrammatic(RopeKvWrite<kDim, kRuns>,
                                {.grid = grid,
                                 .threads = RopeKvWriter<kDim, kRuns>::kThreads,
                                 .programmatic = p.programmatic},
                                p, stream));
}

template <int kDim>
void LaunchDim(const RopeKvWriteParams& p, cudaStream_t stream) {
  const int heads = p.num_heads + 2 * p.kv_heads;
  const unsigned sequences = static_cast<unsigned>(p.num_sequences);
  const auto launch_short = [&]<RopeRuns kRuns>(std::integral_constant<RopeRuns, kRuns>) {
    constexpr int kVectors = RopeKvWriter<kDim, kRuns>::kVectors;
    Launch<kDim, kRuns>(p,
                        dim3(static_cast<unsigned>(p.max_query_len),
                             static_cast<unsigned>(CeilDiv(heads, kVectors)), sequences),
                        stream);
  };
  if (p.max_query_len <= kRopeShortRun) {
    // A norm's sum of squares is added lane by lane, and is to be the same bits in every kernel.
    const bool few = int64_t{p.num_sequences} * p.max_query_len * heads <= kFewVectors &&
                     p.q_norm == nullptr && p.k_norm == nullptr;
    if (few) {
      launch_short(std::integral_constant<RopeRuns, RopeRuns::kFewShort>{});
    } else {
      launch_short(std::integral_constant<RopeRuns, RopeRuns::kShort>{});
    }
  } else {
    // A run of n tokens touches at most ceil((n - 1) / 16) + 1 groups.
    const int groups = CeilDiv(p.max_query_len - 1, kVGroupTokens) + 1;
    FIREQ_CHECK(groups <= 65535, kUnsupported, "rope_kv_write: ", p.max_query_len,
                " tokens of a sequence in a step");
    // Heads first: CTAs that run together then read and write the same tokens' rows.
    RopeKvWriteParams long_runs = p;
    long_runs.heads_per_cta = std::clamp<int>(
        static_cast<int>(int64_t{heads} * groups * p.num_sequences / kWave), 1, kMostHeads);
    Launch<kDim, RopeRuns::kLong>(
        long_runs,
        dim3(static_cast<unsigned>(CeilDiv(heads, long_runs.heads_per_cta)),
             static_cast<unsigned>(groups), sequences),
        stream);
  }
}

}  // namespace

void LaunchRopeKvWrite(const RopeKvWriteParams& params, int head_dim, cudaStream_t stream) {
  FIREQ_CHECK(head_dim == 64 || head_dim == 128, kUnsupported, "rope_kv_write: head_dim ", head_dim,
              " is neither 64 nor 128");
  FIREQ_CHECK(params.grid != KvGrid::kFloat, kUnsupported, "rope_kv_write: a float cache");
  FIREQ_CHECK(params.kv_heads > 0 && params.num_heads % params.kv_heads == 0, kInvalidArgument,
              "rope_kv_write: ", params.num_heads, " heads over ", params.kv_heads, " KV heads");
  FIREQ_CHECK(params.num_sequences <= 65535, kUnsupported, "rope_kv_write: ", params.num_sequences,
              " sequences");
  if (params.num_sequences == 0 || params.max_query_len == 0) return;
  (head_dim == 128 ? LaunchDim<128> : LaunchDim<64>)(params, stream);
}

}  // namespace fireq::sm90
