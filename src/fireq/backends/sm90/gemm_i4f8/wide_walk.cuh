// What a cluster of the wide kernel works on, in which order, and which outputs it finishes: the
// same for every warp of the CTA.
#pragma once

#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"

namespace fireq::sm90 {

// A tile, or a part of one along K: units [begin, end).
struct WideWork {
  WideTile tile;
  int begin, end;
};

// Chunks [begin, end) of a tile's tokens.
struct WideOutput {
  WideTile tile;
  int begin, end;
  __device__ int middle() const { return begin + CeilDiv(end - begin, 2); }
};

// Whole tiles, then perhaps a part of one: each of the last `cut_tiles` tiles is dealt to `parts`
// clusters, which then finish an equal share of its tokens each.
template <class Config>
struct WideWalk {
  int row_pairs, token_tiles, cluster, clusters, whole_tiles, units, parts;
  int whole, count;  // of this cluster
  __device__ explicit WideWalk(const GemmI4F8Params& p)
      : row_pairs(CeilDiv(p.super_blocks, Config::kClusterCtas)),
        token_tiles(CeilDiv(p.m, Config::kTokens)),
        cluster(blockIdx.x / Config::kClusterCtas),
        clusters(gridDim.x / Config::kClusterCtas),
        whole_tiles(p.whole_tiles),
        units(p.units),
        parts(p.parts),
        whole((p.whole_tiles - cluster + clusters - 1) / clusters) {
    count = whole + (cut_tile() < p.tiles - p.whole_tiles ? 1 : 0);
  }
  __device__ int cut_tile() const { return cluster / parts; }
  __device__ int place() const { return cluster % parts; }
  __device__ bool IsWhole(int i) const { return i < whole; }

  __device__ WideWork At(int i) const {
    if (IsWhole(i)) return {WideTileAt(cluster + i * clusters, row_pairs, token_tiles), 0, units};
    return {WideTileAt(whole_tiles + cut_tile(), row_pairs, token_tiles), units * place() / parts,
            units * (place() + 1) / parts};
  }
  // What this cluster finishes of its i-th tile.
  __device__ WideOutput OutputAt(int i) const {
    const WideTile tile = At(i).tile;
    if (IsWhole(i)) return {tile, 0, Config::kChunks};
    return {tile, Config::kChunks * place() / parts, Config::kChunks * (place() + 1) / parts};
  }
};

}  // namespace fireq::sm90
