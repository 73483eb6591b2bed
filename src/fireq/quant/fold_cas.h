// CAS: channel-wise scaling of the inputs of o, gate|up and down, undone in the layer in front.
//
// lambda_j = c / mean_i |W_ij| over all consumer rows (or the maximum), floor 1e-8, c such that the
// geometric mean of lambda is 1; W[:,j] *= lambda_j. Source: served arithmetic, "Folds".
#pragma once

#include "fireq/checkpoint/model_config.h"
#include "fireq/quant/block.h"
#include "fireq/quant/recipe.h"

namespace fireq::quant {

// Lambda 3 (down's columns, up's rows), then 2 (gate|up's columns, mlp_norm), then 1 (o's columns,
// v's rows: one lambda a row of v, over the query heads of its group), as far as `recipe` has them.
// The block's function is unchanged. Instantiated for float and double.
template <class T>
void FoldCas(Block<T>& block, const ModelConfig& config, const Recipe& recipe);

}  // namespace fireq::quant
