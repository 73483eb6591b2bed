// What the kernels read: one plain struct, passed by value.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fireq/backends/sm90/gemm_i4f8/schedule.h"
#include "fireq/backends/sm90/peer_sum/params.h"

namespace fireq::sm90 {

enum class OutType : uint8_t { kBf16, kF16 };

struct GemmI4F8Params {
  const float* row_scales;   // [n] 1/t of each packed row
  const float* bias;         // [n] packed rows, or null
  const float* x_sums;       // [m, groups] sum of x8 over each group of 128 (exact only)
  const float* x_scales;     // [m] token scales
  const uint16_t* residual;  // [m, ldy] of the output's type (residual epilogue only)
  uint16_t* y;               // [m, ldy]
  int64_t ldy;               // elements
  int m;                     // tokens
  int row_blocks;            // of 64 packed rows
  int groups;                // of 128 along K
  int super_blocks;          // CTA tiles along the packed rows
  int tiles;                 // CTA tiles in all: super_blocks x token tiles
  Divisor units;             // pipeline steps along K, a tile (wide kernel: WideUnitSteps())
  WideTileOrder order;       // wide kernel: of tiles
  int whole_tiles;           // the first tiles, not cut along K
  int waves;                 // how many of them every cluster has
  int wave_rest;             // how many clusters have one more
  Divisor parts;             // into how many the other tiles are cut, if not dealt
  WideDeal deal;             // of them, if they are
  uint4* partials;           // sums of tiles that are cut: the wide kernel's in 16 bits,
  float part_unit;           // in so many
  float parts_a_unit;        // 1 / part_unit
  uint32_t* counts;          // and how many of them are there, a tile
  int tiles_per_cluster;     // stream kernel
  Divisor ranks;             // CTAs of a cluster
  int end_units;             // stream kernel: EndsSchedule's, or 0: no helpers
  Divisor helpers;           // CTAs, whole clusters
  int x_box_groups;          // stream kernel: groups one copy of x brings; 0: one, by column
  OutType out;
  const uint16_t* bf16_x;  // resident tokens: BF16 [m, k]
  const float* norm;       // and the weights [k] of the norm before they are quantised, or null
  float norm_eps;
  uint32_t* ready;  // RowsReady::counts that this kernel adds to, or null
  PeerEnd end;      // send epilogue: instead of y
  Divisor owners;   // ranks, of which each owns every so manieth token
};

// What the copy engine knows of the operands.
struct GemmMaps {
  CUtensorMap weights, tokens;
  // Wide kernel. Boxes of tokens have as many rows as a CTA copies; `last_tokens`, if there is one,
  // the rows of the last box that has any: copies are slow where they make rows of zeros.
  CUtensorMap last_tokens, outputs, residual;
};

}  // namespace fireq::sm90
