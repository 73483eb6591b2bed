// What a cluster of the wide kernel works on, in which order, and which outputs it finishes: the
// same for every warp of the CTA.
#pragma once

#include <type_traits>

#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"

namespace fireq::sm90 {

// A tile, or a part of one along K: steps [begin, end).
struct WideWork {
  WideTile tile;
  int begin, end;
};

// Chunks [begin, end) of a tile's tokens.
struct WideOutput {
  WideTile tile;
  int begin, end;
  __device__ int middle() const { return begin + CeilDiv(end - begin, 2); }
  // A warpgroup's: all, unless it has half of a whole tile's.
  template <class Config>
  __device__ WideOutput Of(int warpgroup) const {
    return {tile, begin, min(end, Config::Chunks(warpgroup))};
  }
};

// Whole tiles, then perhaps a part of one: each tile that is cut goes to `parts` clusters, which
// then finish an equal share of its tokens each.
template <class Config>
struct WideCutWalk {
  const GemmI4F8Params& p;
  int cluster, whole, count;  // and how many tiles this cluster has
  __device__ explicit WideCutWalk(const GemmI4F8Params& params)
      : p(params),
        cluster(blockIdx.x / Config::kClusterCtas),
        whole(params.waves + (cluster < params.wave_rest ? 1 : 0)) {
    count = whole + (cut_tile() < p.tiles - p.whole_tiles ? 1 : 0);
  }
  __device__ int parts() const { return p.parts.value; }
  __device__ int cut_tile() const { return cluster / p.parts; }
  __device__ int place() const { return cluster - cut_tile() * parts(); }
  __device__ bool IsWhole(int i) const { return i < whole; }

  __device__ WideWork At(int i) const {
    const int clusters = static_cast<int>(gridDim.x) / Config::kClusterCtas;
    if (IsWhole(i))
      return {p.order.At(cluster + i * clusters), 0, Config::kUnitSteps * p.units.value};
    // Of steps that have anything in them; at least kWidePartSteps, as parts are no more than
    // units.
    const int deals = CeilDiv(p.groups, kWidePartSteps * Config::kGroups);
    return {p.order.At(p.whole_tiles + cut_tile()), kWidePartSteps * (deals * place() / p.parts),
            kWidePartSteps * (deals * (place() + 1) / p.parts)};
  }
  // What this cluster finishes of its i-th tile.
  __device__ WideOutput OutputAt(int i) const {
    const WideTile tile = At(i).tile;
    if (IsWhole(i)) return {tile, 0, Config::kChunks};
    return {tile, Config::kChunks * place() / p.parts, Config::kChunks * (place() + 1) / p.parts};
  }
};

// The cluster's share of the tiles that are dealt, and between what it hands over and the tiles
// that it finishes, those of whole waves.
template <class Config>
struct WideDealtWalk {
  const GemmI4F8Params& p;
  int cluster;
  WideDeal::Share share;
  int waves, count;
  __device__ explicit WideDealtWalk(const GemmI4F8Params& params)
      : p(params),
        cluster(blockIdx.x / Config::kClusterCtas),
        share(params.deal.Of(cluster)),
        waves(params.waves + (cluster < params.wave_rest ? 1 : 0)),
        count(share.hands_over() + waves + share.whole + share.finishes()) {}
  __device__ bool HandsOver(int i) const { return i == 0 && share.hands_over(); }
  __device__ bool FinishesParts(int i) const { return i + 1 == count && share.finishes(); }
  __device__ int UnitsAt(int i) const {
    if (HandsOver(i)) return share.end - share.begin;
    return FinishesParts(i) ? share.units : p.units.value;
  }
  __device__ WideTile TileAt(int i) const {
    if (HandsOver(i)) return p.order.At(p.whole_tiles + share.tile);
    const int tile = i - share.hands_over();
    const int clusters = static_cast<int>(gridDim.x) / Config::kClusterCtas;
    return p.order.At(tile < waves ? cluster + tile * clusters
                                   : p.whole_tiles + share.first + tile - waves);
  }
  __device__ WideWork At(int i) const {
    const int begin = HandsOver(i) ? share.begin : 0;
    return {TileAt(i), Config::kUnitSteps * begin, Config::kUnitSteps * (begin + UnitsAt(i))};
  }
  __device__ WideOutput OutputAt(int i) const { return {TileAt(i), 0, Config::kChunks}; }
  // use(c) for each cluster that hands over a part of the tile that this one finishes.
  template <class Use>
  __device__ __forceinline__ void ForParts(const Use& use) const {
    if (!share.finishes()) return;
    for (int c = cluster + 1; p.deal.HasPart(c, share.first + share.whole); ++c) use(c);
  }
};

template <class Config>
using WideWalk = std::conditional_t<Config::kDeals, WideDealtWalk<Config>, WideCutWalk<Config>>;

}  // namespace fireq::sm90
