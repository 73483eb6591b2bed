// RPN and CRS: K's channels made even for INT4 before and after RoPE, undone in Q.
//
// RoPE turns the pair (f, f + Dh/2) of a head, so a factor commutes with it only if both members
// share it (RPN, folded into weights); single channels are scaled after RoPE (CRS, factors that the
// fused RoPE kernel multiplies by). Source: FireQ, arXiv 2505.20839; served arithmetic, "Folds".
#pragma once

#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/quant/block.h"
#include "fireq/quant/recipe.h"

namespace fireq::quant {

// Maxima of the float model's K over all calibration tokens (after k_norm where there is one).
struct KeyRanges {
  std::vector<float> pair_norm;    // [Hk, Dh/2] sqrt(k_f^2 + k_{f+Dh/2}^2), before RoPE
  std::vector<float> channel_max;  // [Hk, Dh] |k_c| after RoPE
};

// Sets block.crs_k and crs_q (if recipe.crs): beta / m_c and m_c / beta for the top_k channels of
// each KV head by m_c and their partners, 1 elsewhere; then (if recipe.rpn) scales the rows of k
// and q, or k_norm and q_norm, by alpha / n_f and n_f / alpha, leaving pairs that CRS touches.
// Channels that are always zero keep the factor 1. Q.K is unchanged.
template <class T>
void FoldRope(Block<T>& block, const ModelConfig& config, const Recipe& recipe,
              const KeyRanges& ranges);

}  // namespace fireq::quant
