// What the GEMMs take, from an op's arguments: their operands.
#pragma once

#include "fireq/backends/sm90/backend/prepared.h"
#include "fireq/backends/sm90/gemm_bf16/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/ops/args.h"

namespace fireq::sm90 {

inline GemmShape ShapeOf(const LinearArgs& args, const Sm90Linear& w) {
  return {args.x.values.dim(0), w.layout.n, w.layout.k};
}

inline GemmI4F8Args MakeGemm(const LinearArgs& args, const Sm90Linear& w) {
  GemmI4F8Args gemm;
  gemm.layout = w.layout;
  gemm.tiles = w.tiles.as<uint8_t>();
  gemm.row_scales = w.row_scales.as<float>();
  gemm.bias = w.bias.defined() ? w.bias.as<float>() : nullptr;
  gemm.m = args.x.values.dim(0);
  gemm.x = args.x.values.as<uint8_t>();
  gemm.x_scales = args.x.scale.as<float>();
  gemm.x_sums = args.x.sums.as<float>();
  return gemm;
}

// Of some rows of a matrix.
inline GemmBf16Args MakeGemm(const LinearArgs& args, const Tensor& w) {
  GemmBf16Args gemm;
  gemm.x = args.x.values.as<bf16_t>();
  gemm.w = w.as<bf16_t>();
  gemm.m = args.x.values.dim(0);
  gemm.n = w.dim(0);
  gemm.k = w.dim(1);
  return gemm;
}

}  // namespace fireq::sm90
