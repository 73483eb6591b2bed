// The pass in front of attention that unpacks every page of the step's sequences once, where the
// query blocks that visit it are many: a CTA a tile and KV head, two warps a page.
#pragma once

#include "fireq/backends/sm90/attn_prefill/params.h"
#include "fireq/backends/sm90/attn_prefill/unpack.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

inline constexpr int kTilePassThreads = 64 * kPrefillPages;

// blockIdx.x: number of the tile among the step's; blockIdx.y: KV head.
template <int kDim>
__global__ void __launch_bounds__(kTilePassThreads)
    UnpackPrefillTiles(const __grid_constant__ AttnPrefillParams p) {
  constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 1, kDim};
  __shared__ alignas(1024) PrefillTile<kDim> tile;
  GridDependencyWait();
  GridDependencyLaunch();  // what attention reads besides tiles was there before this kernel
  const AttnPrefillTile which = p.tiles[blockIdx.x];
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t page = threadIdx.x / 64;
  const int32_t first_token = which.first_token + static_cast<int32_t>(page) * kTokensPerPage;
  // Of the page as many tokens belong to the sequence. Behind its last page the page before comes
  // again: no key of it is seen, but what the tensor cores multiply by zero must be finite.
  const int32_t valid = which.context - first_token;
  const int32_t at = min(first_token, which.context - 1) / kTokensPerPage;
  const int32_t number = p.page_table[int64_t{which.sequence} * p.max_pages + at];
  const uint8_t* block = p.pages + (static_cast<uint64_t>(static_cast<uint32_t>(number)) *
                                        static_cast<uint32_t>(p.kv_heads) +
                                    blockIdx.y) *
                                       kLayout.head_bytes();
  const uint8_t* scales = block + kLayout.k_scale_offset();
  if (threadIdx.x / 32 % 2 == 0) {
    PrefillKeyUnpack<kDim, kTokensPerPage * kDim / 1024> half;
    half.Load(block, scales, lane, valid);
    half.Store(block, scales, lane, tile.k[page], tile.scales[page]);
  } else {
    const uint8_t* codes = block + kLayout.v_offset();
    PrefillValueUnpack<kDim, kTokensPerPage / kVGroupTokens> half;
    half.Load(codes, scales, lane, valid);
    half.Store(codes, scales, lane, tile.v[page], tile.scales[page]);
  }
  FenceProxyAsync();  // the stores above before the copy's reads
  __syncthreads();
  if (threadIdx.x == 0) {
    BulkStore(static_cast<PrefillTile<kDim>*>(p.workspace) +
                  (int64_t{blockIdx.x} * p.kv_heads + blockIdx.y),
              &tile, sizeof(tile));
    BulkGroupCommit();
    BulkGroupsWaitRead();  // the rest is done by the end of the grid
  }
}

}  // namespace fireq::sm90
