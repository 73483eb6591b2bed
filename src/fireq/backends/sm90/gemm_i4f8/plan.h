// Which kernel computes a GEMM, how it is cut, and why: pure, printable, tested without a GPU.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/formats/weight_i4.h"

namespace fireq::sm90 {

enum class GemmKernel : uint8_t {
  kStream,  // *exact* products, memory-bound shapes (stream_kernel.cuh)
  kWide,    // *table* products, tensor-core-bound shapes (wide_kernel.cuh)
};

// One instantiation. A CTA's tile is `tokens` x 64 `row_blocks`; a pipeline step `groups` x 128 of
// K.
struct GemmVariant {
  const char* name;
  GemmKernel kernel;
  int tokens;
  int row_blocks;
  int groups;
  int groups_per_warpgroup;
  // Not 0: takes a BF16 token, which every CTA normalises and quantises for itself; up to so many
  // groups of K.
  int resident_groups = 0;
  // Wide: CTAs of a cluster. Two have the same tokens, of which each copies half to both.
  int wide_cluster = 2;
  // Wide: the two CTAs of a pair have one of their row blocks in common, half of its tokens each.
  bool shares_block = false;
  // Wide: tiles that are cut are dealt to all clusters (WideDeal), not each to a few of its own.
  bool deals = false;

  // Of a tile; of the wide kernel's cluster of them.
  constexpr int tile_row_blocks() const {
    if (kernel == GemmKernel::kStream) return row_blocks;
    return wide_cluster * row_blocks - (shares_block ? 1 : 0);
  }
  // Whether multiprocessors without a tile may take the ends of the others' work (EndsSchedule).
  constexpr bool has_helpers() const {
    return kernel == GemmKernel::kStream && tokens == 64 && row_blocks == 2;
  }
  // Whether outputs may go to the ranks that own their tokens (GemmEpilogue::kSend): where messages
  // are so long that ranks own rows (peer_sum/plan.h) there are more tokens than in the others.
  constexpr bool sends() const { return kernel == GemmKernel::kStream && tokens >= 64; }
};

inline constexpr std::array kGemmVariants = {
    GemmVariant{"exact_8x64", GemmKernel::kStream, 8, 1, 4, 1},
    GemmVariant{"exact_8x64_deep", GemmKernel::kStream, 8, 1, 8, 2},
    GemmVariant{"exact_8x128_deep", GemmKernel::kStream, 8, 2, 4, 2},
    GemmVariant{"exact_8x256_deep", GemmKernel::kStream, 8, 4, 2, 2},
    GemmVariant{"exact_16x64", GemmKernel::kStream, 16, 1, 4, 1},
    GemmVariant{"exact_16x64_deep", GemmKernel::kStream, 16, 1, 8, 2},
    GemmVariant{"exact_16x128_deep", GemmKernel::kStream, 16, 2, 4, 2},
    GemmVariant{"exact_16x256_deep", GemmKernel::kStream, 16, 4, 2, 2},
    GemmVariant{"exact_32x64_deep", GemmKernel::kStream, 32, 1, 4, 2},
    GemmVariant{"exact_32x192_deep", GemmKernel::kStream, 32, 3, 2, 2},
    GemmVariant{"exact_64x64_deep", GemmKernel::kStream, 64, 1, 4, 2},
    GemmVariant{"exact_64x128_deep", GemmKernel::kStream, 64, 2, 2, 2},
    GemmVariant{"exact_64x192", GemmKernel::kStream, 64, 3, 1, 1},
    GemmVariant{"exact_32x256", GemmKernel::kStream, 32, 4, 1, 1},
    GemmVariant{"exact_128x128", GemmKernel::kStream, 128, 2, 1, 1},
    GemmVariant{"exact_8x64_resident40", GemmKernel::kStream, 8, 1, 8, 2, 40},
    GemmVariant{"exact_8x256_resident40", GemmKernel::kStream, 8, 4, 2, 2, 40},
    GemmVariant{"exact_8x64_resident112", GemmKernel::kStream, 8, 1, 8, 2, 112},
    GemmVariant{"table_256x128", GemmKernel::kWide, 256, 2, 1, 1},
    GemmVariant{"table_192x128", GemmKernel::kWide, 192, 2, 1, 1},
    GemmVariant{"table_128x128", GemmKernel::kWide, 128, 2, 1, 1},
    GemmVariant{"table_128x64", GemmKernel::kWide, 128, 1, 2, 1, 0, 1},
    GemmVariant{"table_256x64", GemmKernel::kWide, 256, 1, 2, 1, 0, 1},
    GemmVariant{"table_256x96", GemmKernel::kWide, 256, 2, 1, 1, 0, 2, true},
    GemmVariant{"table_256x128_dealt", GemmKernel::kWide, 256, 2, 1, 1, 0, 2, false, true},
    GemmVariant{"table_128x128_dealt", GemmKernel::kWide, 128, 2, 1, 1, 0, 2, false, true},
};

// Index of a variant by name; -1 if there is none.
constexpr int FindGemmVariant(std::string_view name) {
  for (size_t i = 0; i < kGemmVariants.size(); ++i)
    if (name == kGemmVariants[i].name) return static_cast<int>(i);
  return -1;
}

// What all linears of a chain (LaunchGemmChain) are cut for.
inline constexpr int kChainVariant = FindGemmVariant("exact_8x64_resident112");
inline constexpr int kChainCluster = 2;
inline constexpr int kShortChainGroups = 40;  // of K, of all links but the third (chain_kernel.cuh)

struct GemmShape {
  int64_t m = 0;  // tokens
  int64_t n = 0;  // packed weight rows, a multiple of 64
  int64_t k = 0;  // a multiple of 64
};

// What the planner knows of a GPU. The defaults are an H200's: clusters of c CTAs, one CTA a
// multiprocessor, that run at one time (they may not straddle a GPC).
struct GemmDevice {
  int num_sms = 132;
  std::array<int, 9> max_clusters = {0, 132, 66, 39, 30, 22, 17, 15, 15};
};

struct GemmPlan {
  int variant = 0;            // index into kGemmVariants
  int cluster = 1;            // CTAs that share tiles (stream: along K; wide: tokens)
  int num_clusters = 0;       // of the grid
  int tiles_per_cluster = 0;  // stream kernel
  int helpers = 0;            // stream kernel: CTAs without a tile (EndsSchedule)
  int end_units = 0;          // and how many units of each of the others they take
  int super_blocks = 0;       // CTA tiles along the packed rows
  int tiles = 0;              // stream: CTA tiles; wide: a cluster's CTA tiles
  int units = 0;              // pipeline steps a tile (wide: WideUnitSteps() of them)
  int whole_tiles = 0;        // wide: tiles [0, whole_tiles) are not cut along K
  int parts = 1;              // wide: into how many the others are, if not dealt
  WideDeal deal{};            // of those, if the variant deals them
  std::string why;            // one line

  // Whether CTAs hand sums to one another through the workspace.
  bool cuts_tiles() const {
    return helpers > 0 || (whole_tiles < tiles && kernel().kernel == GemmKernel::kWide);
  }
  const GemmVariant& kernel() const { return kGemmVariants[static_cast<size_t>(variant)]; }
};

// A row of the tuned table: for this n and k and up to `max_m` tokens (from the row before).
struct TunedGemm {
  int64_t n;
  int64_t k;
  int64_t max_m;
  const char* variant;
  int cluster;
  // Along K. Wide: tiles of the last wave, or dealt; stream: what helpers may have.
  bool cut = false;
};
std::span<const TunedGemm> TunedGemms();

// The plan that serves: `served` is resolved by m alone (ResolveProducts), then the tuned table,
// then a cost model. Throws kUnsupported for n or k that is no positive multiple of 64 and for m
// < 1.
GemmPlan MakeGemmPlan(const GemmShape& shape, Products products, const GemmDevice& device = {},
                      std::span<const TunedGemm> tuned = TunedGemms());

// A forced variant and cluster size, for tests and the tuner. Throws kInvalidArgument if the
// cluster has more CTAs than there are steps of K, or other than the wide variant's.
GemmPlan MakeForcedGemmPlan(const GemmShape& shape, int variant, int cluster,
                            const GemmDevice& device = {}, bool cut = false);

// The plan that takes one token as BF16, cut as the plan of its codes is. Empty where there is
// none: *table* products, more tokens, a K that is too long or no multiple of 128.
std::optional<GemmPlan> MakeResidentGemmPlan(const GemmShape& shape, Products products,
                                             const GemmDevice& device = {});

// `tiles` of so many units in runs for at most so many clusters: as short as may be, of which what
// is handed over ends `lag` before the longest run, as it takes that long to where it is wanted.
// Without a lag, where other work follows, in even runs.
WideDeal DealTiles(int tiles, int units, int clusters, int lag);

// The plan of a linear in a chain.
GemmPlan MakeChainGemmPlan(const GemmShape& shape, const GemmDevice& device = {});

// Pipeline steps of a tile.
int GemmUnits(const GemmVariant& variant, int64_t k);

}  // namespace fireq::sm90
