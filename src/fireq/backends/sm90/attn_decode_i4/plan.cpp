#include "fireq/backends/sm90/attn_decode_i4/plan.h"

#include <algorithm>

#include "fireq/backends/sm90/attn_decode_i4/lists.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {
namespace {
constexpr int kFlagAndPiece = 80;
constexpr int kBarriers = 2 * kDecodeMaxStages + 6;
constexpr int64_t kSharedOfSm = int64_t{228} * 1024;  // of which each CTA takes 1 KB for itself

// CTAs of a cluster where a segment may be cut into `cuts` parts, of which no more than an eighth
// is left aside. More than two only where they hold a whole segment, known to have no more than
// `rounds` (0: not known), and where there is an SM for each CTA of all segments' clusters: larger
// clusters do not all fit on the SMs at once, and their CTAs share SMs.
int Cluster(int64_t ctas, int64_t cuts, int64_t rounds, int64_t sms_of_segment) {
  int most = 2;
  if (rounds > 0 && rounds <= kDecodeMaxCluster)
    while (most < rounds) most *= 2;
  if (most > sms_of_segment) most = 2;
  for (int cluster = most; cluster > 1; cluster /= 2) {
    if (ctas % cluster == 0 && 8 * (cuts % cluster) <= cuts && cuts >= cluster) return cluster;
  }
  return 1;
}
}  // namespace

bool DecodeCanWriteTokens(const AttnDecodeShape& shape, bool qk_norm, bool hadamard) {
  return shape.max_query_len == 1 && shape.num_heads <= 8 * shape.kv_heads && !qk_norm &&
         !hadamard && shape.num_sequences * shape.kv_heads <= DecodeCtasPerSm(8) * shape.num_sms;
}

AttnDecodePlan MakeAttnDecodePlan(const AttnDecodeShape& shape) {
  FIREQ_CHECK(shape.head_dim == 64 || shape.head_dim == 128, kUnsupported,
              "decode attention: head_dim ", shape.head_dim, " is neither 64 nor 128");
  FIREQ_CHECK(shape.kv_heads > 0 && shape.num_heads % shape.kv_heads == 0, kShapeMismatch,
              "decode attention: ", shape.num_heads, " heads over ", shape.kv_heads, " KV heads");
  FIREQ_CHECK(shape.num_sequences >= 0 && shape.max_query_len >= 1 && shape.num_sms >= 1,
              kInvalidArgument, "decode attention: S ", shape.num_sequences, ", max_query_len ",
              shape.max_query_len, ", SMs ", shape.num_sms);
  const int64_t rows = shape.num_heads / shape.kv_heads * shape.max_query_len;
  AttnDecodePlan plan;
  plan.head_dim = static_cast<int>(shape.head_dim);
  plan.rows = rows <= 8 ? 8 : kDecodeMaxRows;
  FIREQ_CHECK(!shape.writes_tokens || DecodeCanWriteTokens(shape, false, false), kUnsupported,
              "decode attention writes the tokens of a step: ", shape.num_sequences,
              " sequences of ", shape.max_query_len, " tokens, ", rows, " query rows");
  plan.writes_tokens = shape.writes_tokens;
  plan.row_tiles = static_cast<int>(CeilDiv<int64_t>(rows, plan.rows));
  plan.ctas = DecodeCtasPerSm(plan.rows) * static_cast<int>(shape.num_sms);

  const int64_t segments = shape.num_sequences * shape.kv_heads * plan.row_tiles;
  const int64_t cuts = segments == 0 ? 0 : plan.ctas / segments;
  const int warps = DecodeWarps(plan.rows);
  const int64_t rounds = CeilDiv<int64_t>(shape.max_pages, warps);
  plan.cluster = Cluster(plan.ctas, cuts, rounds, shape.num_sms / std::max<int64_t>(segments, 1));
  plan.cuts = static_cast<int>(cuts / plan.cluster * plan.cluster);

  const KvPageLayout layout{KvGrid::kAsymmetric, 1, plan.head_dim};
  const int64_t limit = kSharedOfSm / DecodeCtasPerSm(plan.rows) - 1024;
  const int64_t part_rows = int64_t{plan.cluster - 1} * plan.rows;
  const int64_t parts = part_rows * plan.head_dim * 4;
  const int64_t table = plan.cuts == 0 ? 0 : int64_t{warps} * 32 * 4;
  const int64_t older = plan.writes_tokens ? kDecodeMaxStages * 8 : 0;
  const int64_t codes = plan.writes_tokens ? kDecodeTokenBytes : 0;
  const int64_t beside_sums =
      parts + part_rows * 8 + kBarriers * 8 + older + codes + table + kFlagAndPiece;
  // Of all warps once.
  const int64_t sums_once = int64_t{warps} * 8 * (plan.head_dim + kDecodePadding) * 4;
  const int64_t stats_once = int64_t{warps} * kDecodeMaxRows * 8;
  // A multiple of the warps: a stage then always belongs to the same warp. With any other number a
  // warp could run a whole ring ahead of a page that is late, and take the phase before for its
  // own.
  const auto fixed_bytes = [&](bool finishes) {
    const int64_t prefix = AlignUp<int64_t>((shape.num_sequences + 1) * 4, 16);
    const int64_t sums = sums_once + stats_once;
    return beside_sums + (finishes ? 2 * sums : sums + prefix);
  };
  const auto stages = [&](bool finishes) {
    return static_cast<int>(
        std::min<int64_t>(kDecodeMaxStages, (limit - fixed_bytes(finishes)) / layout.head_bytes()) /
        warps * warps);
  };
  // Where no segment is ever cut evenly, a CTA has many. Two tiles of rows have no registers for
  // it.
  plan.finishes = plan.cuts == 0 && plan.rows == 8 && shape.num_sequences <= kDecodeMostListed;
  const int64_t buffers = plan.finishes ? 2 : 1;
  plan.stages = stages(plan.finishes);
  FIREQ_CHECK(plan.stages >= warps, kUnsupported, "decode attention: ", shape.num_sequences,
              " sequences leave shared memory for ", plan.stages, " pages only");
  const int64_t sums = buffers * sums_once;
  const int64_t stats = buffers * stats_once;

  AttnDecodeShared& shared = plan.shared;
  shared.parts = static_cast<int32_t>(plan.stages * layout.head_bytes());
  shared.part_stats = shared.parts + static_cast<int32_t>(parts);
  shared.sums = shared.part_stats + static_cast<int32_t>(part_rows * 8);
  shared.stats = shared.sums + static_cast<int32_t>(sums);
  shared.barriers = shared.stats + static_cast<int32_t>(stats);
  shared.older = shared.barriers + kBarriers * 8;
  shared.codes = shared.older + static_cast<int32_t>(older);
  shared.table = shared.codes + static_cast<int32_t>(codes);
  shared.flag = shared.table + static_cast<int32_t>(table);
  shared.prefix = shared.flag + kFlagAndPiece;
  shared.bytes =
      static_cast<int32_t>(plan.stages * layout.head_bytes() + fixed_bytes(plan.finishes));

  // Two partial segments a CTA (its first and its last), each rows of sums and statistics; then a
  // counter a CTA.
  plan.workspace_bytes =
      int64_t{plan.ctas} * (int64_t{2} * kDecodeMaxRows * (int64_t{plan.head_dim} * 4 + 8) + 4);
  if (plan.finishes) plan.lists_bytes = DecodeLists::Bytes(plan.ctas, segments, shape.max_pages);
  return plan;
}

}  // namespace fireq::sm90
