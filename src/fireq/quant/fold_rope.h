// RPN, balancing and CRS: K's channels made fit for INT4 before and after RoPE, undone in Q.
//
// RoPE turns the pair (f, f + Dh/2) of a head, so a factor commutes with it only if both members
// share it (RPN, folded into weights); single channels are scaled after RoPE (CRS, factors that the
// fused RoPE kernel multiplies by). Balancing is RPN with other factors: with a Hadamard transform
// behind it, the rounding error of K is spread evenly over its channels, so what it does to the
// scores grows with |K D| |Q / D|, which D_f^2 = rms(q_f) / rms(k_f) makes least. Source: FireQ,
// arXiv 2505.20839; served arithmetic, "Folds".
#pragma once

#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/quant/block.h"
#include "fireq/quant/recipe.h"

namespace fireq::quant {

// Of the float model's K and Q over all calibration tokens (after their norms where there are any).
struct KeyRanges {
  std::vector<float> pair_norm;    // [Hk, Dh/2] sqrt(k_f^2 + k_{f+Dh/2}^2), before RoPE
  std::vector<float> channel_max;  // [Hk, Dh] |k_c| after RoPE
  // [Hk, Dh/2] sums of k_f^2 + k_{f+Dh/2}^2, and of the same of Q over the group's query heads.
  std::vector<double> key_energy, query_energy;
  std::vector<double> channel_mean;  // [Hk, Dh] of k_c after RoPE
};

// Sets block.crs_k and crs_q (if recipe.crs): beta / m_c and m_c / beta for the top_k channels of
// each KV head by m_c and their partners, 1 elsewhere; then scales the rows of k and q, or k_norm
// and q_norm, by D_f and 1 / D_f, leaving pairs that CRS touches: alpha / n_f if recipe.rpn, the
// balancing factors if recipe.balance_qk, 1 / sqrt(n_f) if recipe.smooth_qk. Channels that are
// always zero keep the factor 1. Q.K is unchanged. Then block.key_shift, if recipe.shift_k > 0:
// that part of what the mean of each channel has become, which moves Q.K by a constant a query.
// Returns what each channel of K is multiplied by, folded or at run time: [Hk, Dh].
template <class T>
std::vector<float> FoldRope(Block<T>& block, const ModelConfig& config, const Recipe& recipe,
                            const KeyRanges& ranges);

}  // namespace fireq::quant
