// Rotations that cost nothing to serve: of the residual stream, and of each head of V into o.
//
// RMSNorm without a weight commutes with an orthogonal matrix, so norm weights are folded into the
// linears behind them first. Source: served arithmetic, "Folds" (docs/QUANTISATION.md).
#pragma once

#include "fireq/base/thread_pool.h"
#include "fireq/checkpoint/model_config.h"
#include "fireq/quant/block.h"
#include "fireq/quant/rotation.h"

namespace fireq::quant {

// attn_norm into q, k, v; mlp_norm into gate, up; both norms become 1.
template <class T>
void FoldNorms(Block<T>& block);

// A block of a model whose residual stream x is replaced by x R: needs norms of equal weights.
template <class T>
void RotateResidual(Block<T>& block, const Rotation& rotation, ThreadPool& pool);

// Each head of V times R (size Dh), undone in o's columns.
template <class T>
void RotateV(Block<T>& block, const ModelConfig& config, const Rotation& rotation,
             ThreadPool& pool);

}  // namespace fireq::quant
