// What a rank has of a model: an even share of the heads and of the FFN's columns. q, k, v, gate
// and up are cut along their rows; o and down along K, so that their outputs are to be summed.
// Everything else (embedding, norms, lm_head) every rank has whole.
#pragma once

#include "fireq/checkpoint/model_config.h"
#include "fireq/ops/args.h"
#include "fireq/ops/ranks.h"

namespace fireq {

// The share as a model of its own. Throws kUnsupported where KV heads or the FFN cannot be cut.
ModelConfig ShareOf(const ModelConfig& whole, Share share);

// The share of a matrix [N, K] by rows, which shares its bytes, or by columns, a copy. A bias goes
// with the rows, or to the first rank. INT4 columns are cut between groups: kUnsupported otherwise.
LinearPart RowsOf(const LinearPart& whole, Share share);
LinearPart ColumnsOf(const LinearPart& whole, Share share);
Tensor RowsOf(const Tensor& whole, Share share);

}  // namespace fireq
