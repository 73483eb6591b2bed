// `--recipe auto`: which recipe this model keeps most of itself under, by trial.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "fireq/quant/pipeline.h"

namespace fireq {

struct RecipeChoice {
  quant::Recipe recipe;
  // {"held_out_tokens", "calibration_tokens", "chosen", "candidates": [{"name", "kl_table",
  //  "kl_exact", "kl_stderr"}]}: KL(float, quantised) in nats a token; null where the recipe does
  //  not fit the model, with "refused".
  nlohmann::json reasons;
  int64_t first_unseen = 0;  // of the ids: from here on no trial has read them
};

// Quantises `job.source` by every candidate with `settings` over it, on up to 16,384 tokens of
// `ids`, into OUT.trial (removed again), and measures each on text behind the calibration text, or,
// where there is none, on its last window, which the trials then do not see. The least mean of the
// KL with table and with exact products wins. job.recipe and job.calibration_ids are not read.
// Errors: those of the quantiser; kInvalidArgument for fewer than two windows of text.
RecipeChoice ChooseRecipe(const quant::QuantizeJob& job, std::span<const int32_t> ids,
                          int64_t calibration_tokens, const std::vector<std::string>& settings);

}  // namespace fireq
