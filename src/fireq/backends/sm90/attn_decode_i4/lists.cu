// The lists of a step (lists.h): every CTA sums over all sequences and writes what one CTA of
// attention's grid does.
#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/attn_decode_i4/lists.h"
#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kGroups = kTokensPerPage / kVGroupTokens;  // of a page

// A sequence with queries but no context still owns one (unread) page: its output is zero.
__device__ int32_t PagesOf(const AttnDecodeParams& p, int32_t s) {
  if (s >= p.num_sequences || p.query_start[s] == p.query_start[s + 1]) return 0;
  return max((p.context_len[s] + kTokensPerPage - 1) / kTokensPerPage, 1);
}

// The sums before every sequence, by all threads, who may read them behind it. What a sequence
// costs besides its pages and whether it has any share a word: sums of 16 bits each.
__device__ void SumBefore(const AttnDecodeParams& p, DecodeBefore* before) {
  __shared__ uint32_t of_warps[kWarps][2];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t total[2] = {0, 0};
  if (threadIdx.x == 0) before[0] = {};
  for (int32_t base = 0; base < p.num_sequences; base += kThreads) {
    const int32_t s = base + static_cast<int32_t>(threadIdx.x);
    const int32_t pages = PagesOf(p, s);
    uint32_t sum[2] = {static_cast<uint32_t>(pages),
                       static_cast<uint32_t>(DecodeExtraCost(pages)) << 16 | (pages > 0)};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum[i], step);
        if (lane >= step) sum[i] += other;
      }
      if (lane == 31) of_warps[warp][i] = sum[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp) sum[i] += of_warps[w][i];
      }
      sum[i] += total[i];
      for (int w = 0; w < kWarps; ++w) total[i] += of_warps[w][i];
    }
    if (s < p.num_sequences)
      before[s + 1] = {static_cast<int32_t>(sum[0]), static_cast<uint16_t>(sum[1] >> 16),
                       static_cast<uint16_t>(sum[1])};
    __syncthreads();
  }
}

// Of a page of the part that has the units from `first` on.
__device__ DecodePageWord PageWord(const AttnDecodeParams& p, const DecodeLineSegment& segment,
                                   int32_t unit, int32_t first, int32_t queries, int32_t context) {
  const int32_t page = unit - segment.begin;
  const int32_t tokens = context - page * kTokensPerPage;
  const bool fresh = tokens < kTokensPerPage + queries;
  if (tokens <= 0) return DecodePageWord::Of(0, 0, fresh, unit == first);
  const int32_t number = p.page_table[int64_t{segment.sequence} * p.max_pages + page];
  return DecodePageWord::Of(number * p.kv_heads + segment.track,
                            min(kGroups, (tokens + kVGroupTokens - 1) / kVGroupTokens), fresh,
                            unit == first);
}

__global__ void __launch_bounds__(kThreads)
    MakeDecodeLists(const __grid_constant__ AttnDecodeParams p, const DecodeLists lists) {
  extern __shared__ __align__(16) uint8_t dynamic_shared[];
  DecodeBefore* before = reinterpret_cast<DecodeBefore*>(dynamic_shared);
  SumBefore(p, before);
  const int32_t cta = static_cast<int32_t>(blockIdx.x);
  const DecodeDeal deal = DecodeDeal::Of({before, p.num_sequences, p.kv_heads},
                                         static_cast<int32_t>(gridDim.x), p.by_ctas);
  const DecodeWalk walk = deal.WalkOf(cta);
  DecodeListHead& head = lists.heads[cta];
  const int32_t first_part = walk.pages() == 0 ? 0 : deal.FirstPart(walk, cta);
  if (threadIdx.x == 0) {
    head.pages = walk.pages();
    head.first_page = walk.begin;
    head.first_part = first_part;
  }
  for (int32_t unit = walk.begin + static_cast<int32_t>(threadIdx.x); unit < walk.end;
       unit += kThreads) {
    const DecodeLineSegment segment = deal.line.Find(unit);
    const int32_t first_query = p.query_start[segment.sequence];
    const int32_t queries = p.query_start[segment.sequence + 1] - first_query;
    const int32_t context = p.context_len[segment.sequence];
    const int32_t first = walk.FirstOf(segment);
    const DecodePageWord word = PageWord(p, segment, unit, first, queries, context);
    const int32_t page = walk.PageOf(unit);
    lists.pages[walk.begin + page] = word;
    if (page < kDecodeHeadPages) head.first_pages[page] = word;
    if (unit != first) continue;
    DecodePart part = deal.PartOf(walk, cta, segment);
    part.context = context;
    part.queries = queries;
    part.row = first_query * p.num_heads + segment.track * p.group;
    lists.parts[deal.PartAt(walk, first_part, cta, segment)] = part;
  }
}

}  // namespace

void LaunchDecodeLists(const AttnDecodePlan& plan, const AttnDecodeParams& tensors, void* lists,
                       cudaStream_t stream) {
  if (!plan.finishes || tensors.num_sequences == 0) return;
  AttnDecodeParams params = tensors;
  params.group = params.num_heads / params.kv_heads;
  params.by_ctas = ShortDivisor::Of(plan.ctas);
  const int64_t segments = int64_t{params.num_sequences} * params.kv_heads;
  const auto shared = (static_cast<size_t>(params.num_sequences) + 1) * sizeof(DecodeBefore);
  // Of the current device, so at every launch.
  FIREQ_CUDA(cudaFuncSetAttribute(MakeDecodeLists, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (kDecodeMostListed + 1) * sizeof(DecodeBefore)));
  MakeDecodeLists<<<static_cast<unsigned>(plan.ctas), kThreads, shared, stream>>>(
      params, DecodeLists::At(lists, plan.ctas, segments));
  CheckLaunch("decode lists");
}

}  // namespace fireq::sm90
