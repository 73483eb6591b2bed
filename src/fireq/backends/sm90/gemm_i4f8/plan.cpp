#include "fireq/backends/sm90/gemm_i4f8/plan.h"

#include <algorithm>
#include <cstdint>

#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::sm90 {
namespace {

void CheckShape(const GemmShape& shape) {
  FIREQ_CHECK(shape.n > 0 && shape.n % kTileRows == 0 && shape.k > 0 && shape.k % 64 == 0 &&
                  shape.m > 0 && shape.m <= int64_t{1} << 24,
              kUnsupported, "gemm_i4f8: m ", shape.m, ", n ", shape.n, ", k ", shape.k,
              ": n and k must be multiples of 64");
}

// Clusters without a tile help those with one, each of whose CTAs gives up as many units as keep
// the helpers busy as long as the owners are. What a hand-over costs either of them, in units: with
// one more for the helpers of 112 tiles than this allows their owners waited (NOTES.md).
void AddHelpers(GemmPlan& plan, const GemmDevice& device) {
  constexpr double kHandOver = 1.2, kTakeOver = 1.0;
  const int idle = device.max_clusters[static_cast<size_t>(plan.cluster)] - plan.tiles;
  if (idle <= 0 || plan.units % plan.cluster != 0) return;
  const int clusters = std::min(idle, plan.tiles), units = plan.units / plan.cluster;
  const int parts_each = CeilDiv(plan.tiles, clusters);
  int end_units = 0;
  while (parts_each * (end_units + 1 + kHandOver) <= units - (end_units + 1) + kTakeOver)
    ++end_units;
  if (end_units <= kTakeOver) return;
  plan.helpers = clusters * plan.cluster;
  plan.end_units = end_units;
  plan.num_clusters += clusters;
}

// Whole tiles wave by wave; if `cut`, those that do not fill a wave are cut into parts of a unit at
// least, for several clusters each, or dealt to all clusters.
void DealWide(GemmPlan& plan, int room, bool cut) {
  const bool one_tile = WideOneTile(plan.kernel().tokens, plan.kernel().groups);
  cut = cut && !one_tile && !plan.kernel().shares_block;
  plan.num_clusters = one_tile ? plan.tiles : std::min(plan.tiles, room);
  plan.whole_tiles = plan.tiles;
  const int rest = plan.tiles % room;
  if (!cut || rest == 0) return;
  if (plan.kernel().deals) {
    // With a wave more where a tile would have many parts.
    const int waves = plan.tiles / room - (2 * rest < room && plan.tiles > room ? 1 : 0);
    const int dealt = plan.tiles - waves * room, units = dealt * plan.units;
    if (units > UINT16_MAX || room > WideDeal::kMaxClusters || (waves > 0 && units < room)) return;
    // A part is 3 to 4 us on its way; a unit of 256 tokens takes 2.9, of 128 1.8.
    const int lag = waves > 0 ? 0 : (plan.kernel().tokens > 128 ? 1 : 2);
    plan.whole_tiles = waves * room;
    plan.deal = DealTiles(dealt, plan.units, std::min(room, units), lag);
    plan.num_clusters = plan.deal.clusters;
    return;
  }
  const int parts = std::min({room / rest, plan.units, kWideMaxParts});
  if (parts < 2 || room * plan.cluster > kWideMaxCtas) return;
  plan.whole_tiles = plan.tiles - rest;
  plan.parts = parts;
  plan.num_clusters = std::max(plan.num_clusters, rest * parts);
}

GemmPlan Cut(const GemmShape& shape, int variant, int cluster, const GemmDevice& device,
             bool cut = false) {
  const GemmVariant& v = kGemmVariants[static_cast<size_t>(variant)];
  GemmPlan plan;
  plan.variant = variant;
  plan.cluster = cluster;
  plan.units = GemmUnits(v, shape.k);
  plan.super_blocks = static_cast<int>(CeilDiv<int64_t>(shape.n / kTileRows, v.row_blocks));
  const int token_tiles = static_cast<int>(CeilDiv<int64_t>(shape.m, v.tokens));
  const int room = device.max_clusters[static_cast<size_t>(cluster)];
  plan.tiles =
      static_cast<int>(CeilDiv<int64_t>(shape.n / kTileRows, v.tile_row_blocks())) * token_tiles;
  if (v.kernel == GemmKernel::kWide) {
    DealWide(plan, room, cut);
    return plan;
  }
  plan.tiles_per_cluster = CeilDiv(plan.tiles, room);
  plan.num_clusters = CeilDiv(plan.tiles, plan.tiles_per_cluster);
  if (cut && v.has_helpers()) AddHelpers(plan, device);
  return plan;
}

// Steps of the busiest CTA.
int LongestRun(const GemmPlan& plan) {
  return CeilDiv(plan.tiles_per_cluster * plan.units, plan.cluster);
}

// Microseconds that a stream plan takes, roughly: what the busiest multiprocessor copies at the
// rate one can draw, or everything at the memory's rate, and what a combination across CTAs costs.
double EstimateStream(const GemmPlan& plan, const GemmShape& shape) {
  constexpr double kSmBytesPerUs = 60e3;
  constexpr double kMemoryBytesPerUs = 4.2e6;
  // A pair hands its tile over by a copy; more CTAs meet at cluster barriers.
  const double combine_us = plan.cluster == 2 ? 0.5 : 1.5;
  const GemmVariant& v = plan.kernel();
  const double step_bytes = v.groups * (v.row_blocks * kTileBytes + v.tokens * kGroup);
  const double weight_bytes = static_cast<double>(WeightTileLayout{shape.n, shape.k}.size_bytes());
  const bool split = plan.tiles_per_cluster * plan.units % plan.cluster != 0 ||
                     plan.tiles_per_cluster % plan.cluster != 0;
  const double busiest = LongestRun(plan) * step_bytes / kSmBytesPerUs;
  const double occupancy = static_cast<double>(plan.num_clusters * plan.cluster) / 132.0;
  return std::max(busiest, weight_bytes / kMemoryBytesPerUs / std::min(1.0, occupancy + 0.2)) +
         (split ? combine_us : 0.0);
}

GemmPlan BestStreamPlan(const GemmShape& shape, const GemmDevice& device) {
  constexpr const char* kPreferred[] = {"exact_8x64_deep", "exact_16x64_deep", "exact_32x192_deep",
                                        "exact_64x192", "exact_128x128"};
  int variant = 0;
  for (const char* name : kPreferred) {
    variant = FindGemmVariant(name);
    if (kGemmVariants[static_cast<size_t>(variant)].tokens >= shape.m) break;
  }
  GemmPlan best;
  double best_us = 0.0;
  for (int cluster = 1; cluster <= 8; ++cluster) {
    const GemmPlan plan = Cut(shape, variant, cluster, device);
    if (plan.units < cluster) break;
    const double us = EstimateStream(plan, shape);
    if (best.tiles == 0 || us < best_us - 0.01) {
      best = plan;
      best_us = us;
    }
  }
  best.why = StrCat(best.kernel().name, ", clusters of ", best.cluster, ": estimated ", best_us,
                    " us, the busiest CTA reads ", LongestRun(best), " steps");
  return best;
}

GemmPlan BestWidePlan(const GemmShape& shape, const GemmDevice& device) {
  // A wave's time, with what a kernel takes besides: of half the tokens 0.65, of half the rows,
  // too, 0.4.
  struct Candidate {
    const char* name;
    double wave;
  };
  constexpr Candidate kCandidates[] = {{"table_256x128", 1.0},
                                       {"table_256x96", 0.88},
                                       {"table_192x128", 0.82},
                                       {"table_128x128", 0.65},
                                       {"table_128x64", 0.4}};
  GemmPlan best;
  double best_time = 0.0;
  for (const Candidate& candidate : kCandidates) {
    const int variant = FindGemmVariant(candidate.name);
    const int cluster = kGemmVariants[static_cast<size_t>(variant)].wide_cluster;
    const GemmPlan plan = Cut(shape, variant, cluster, device);
    const double time =
        candidate.wave * CeilDiv(plan.tiles, device.max_clusters[static_cast<size_t>(cluster)]);
    if (best.tiles > 0 && time >= best_time) continue;
    best = plan;
    best_time = time;
  }
  best.why = StrCat(best.kernel().name, ": ", best.tiles, " tiles of ", best.cluster, " CTAs over ",
                    device.max_clusters[static_cast<size_t>(best.cluster)], " clusters");
  return best;
}

}  // namespace

WideDeal DealTiles(int tiles, int units, int clusters, int lag) {
  const int total = tiles * units;
  WideDeal deal{.clusters = clusters, .units = Divisor(units), .begin = {}};
  if (lag == 0) {
    for (int c = 0; c <= clusters; ++c) deal.begin[c] = static_cast<uint16_t>(total * c / clusters);
    return deal;
  }
  for (int run = CeilDiv(total, clusters);; ++run) {
    int at = 0;
    deal.clusters = 0;
    while (at < total && deal.clusters < clusters) {
      deal.begin[deal.clusters++] = static_cast<uint16_t>(at);
      const int rest = CeilDiv(at, units) * units - at, most = std::max(1, run - lag);
      at = std::min(total, at + (rest > most ? most : run));
    }
    deal.begin[deal.clusters] = static_cast<uint16_t>(at);
    if (at == total) return deal;
  }
}

int GemmUnits(const GemmVariant& variant, int64_t k) {
  const int groups = static_cast<int>(CeilDiv<int64_t>(k, kGroup));
  const int steps = CeilDiv(groups, variant.groups);
  return variant.kernel == GemmKernel::kWide
             ? CeilDiv(steps, WideUnitSteps(variant.tokens, variant.groups))
             : steps;
}

GemmPlan MakeForcedGemmPlan(const GemmShape& shape, int variant, int cluster,
                            const GemmDevice& device, bool cut) {
  CheckShape(shape);
  FIREQ_CHECK(variant >= 0 && variant < static_cast<int>(kGemmVariants.size()) && cluster >= 1 &&
                  cluster <= 8,
              kInvalidArgument, "gemm_i4f8: variant ", variant, ", cluster ", cluster);
  GemmPlan plan = Cut(shape, variant, cluster, device, cut);
  const bool wide = plan.kernel().kernel == GemmKernel::kWide;
  FIREQ_CHECK(wide ? cluster == plan.kernel().wide_cluster : cluster <= plan.units,
              kInvalidArgument, "gemm_i4f8: ", plan.kernel().name, " with clusters of ", cluster,
              " and ", plan.units, " steps");
  plan.why = StrCat(plan.kernel().name, ", clusters of ", cluster, ": forced");
  return plan;
}

GemmPlan MakeGemmPlan(const GemmShape& shape, Products products, const GemmDevice& device,
                      std::span<const TunedGemm> tuned) {
  CheckShape(shape);
  const Products resolved = ResolveProducts(products, shape.m);
  for (const TunedGemm& row : tuned) {
    if (row.n != shape.n || row.k != shape.k || row.max_m < shape.m) continue;
    const int variant = FindGemmVariant(row.variant);
    const bool table = kGemmVariants[static_cast<size_t>(variant)].kernel == GemmKernel::kWide;
    if (table != (resolved == Products::kTable)) continue;
    GemmPlan plan = MakeForcedGemmPlan(shape, variant, row.cluster, device, row.cut);
    plan.why = StrCat(row.variant, ", clusters of ", row.cluster, ": tuned up to m ", row.max_m);
    return plan;
  }
  return resolved == Products::kTable ? BestWidePlan(shape, device) : BestStreamPlan(shape, device);
}

GemmPlan MakeChainGemmPlan(const GemmShape& shape, const GemmDevice& device) {
  CheckShape(shape);
  GemmPlan plan = Cut(shape, kChainVariant, kChainCluster, device);
  plan.why = StrCat(plan.kernel().name, ", clusters of ", kChainCluster, ": in a chain");
  return plan;
}

std::optional<GemmPlan> MakeResidentGemmPlan(const GemmShape& shape, Products products,
                                             const GemmDevice& device) {
  constexpr int64_t kMaxTokens = 1;  // at four a kernel that makes them is faster
  if (ResolveProducts(products, shape.m) != Products::kExact || shape.k % kGroup != 0 ||
      shape.m > kMaxTokens)
    return std::nullopt;
  const GemmPlan plan = MakeGemmPlan(shape, products, device);
  for (const char* name :
       {"exact_8x256_resident40", "exact_8x64_resident40", "exact_8x64_resident112"}) {
    const int variant = FindGemmVariant(name);
    const GemmVariant& v = kGemmVariants[static_cast<size_t>(variant)];
    const bool tall = v.row_blocks == plan.kernel().row_blocks;
    if (shape.k > int64_t{v.resident_groups} * kGroup || (v.row_blocks > 1 && !tall)) continue;
    const int cluster = tall ? plan.cluster : 2;
    if (cluster <= GemmUnits(v, shape.k))
      return MakeForcedGemmPlan(shape, variant, cluster, device);
  }
  return std::nullopt;
}

}  // namespace fireq::sm90
