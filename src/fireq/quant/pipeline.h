// SPINE: a float model to a quantised checkpoint, block by block.
//
//   load -> fold what needs no statistics -> calibrate -> fold RoPE -> quantise -> write
// Memory: one block in F32, its moments, the residual stream of the calibration windows, and the
// embedding. The checkpoint appears whole at the end or not at all; a killed run goes on from the
// blocks it had finished (saved_work.h).
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fireq/base/thread_pool.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/ops/backend.h"
#include "fireq/ops/input_fit.h"
#include "fireq/quant/recipe.h"
#include "fireq/quant/report.h"
#include "fireq/quant/saved_work.h"

namespace fireq::quant {

struct QuantizeJob {
  const ModelSource* source = nullptr;
  Backend* backend = nullptr;  // runs the float blocks
  Fitter* fitter = nullptr;    // of the same backend; null: the pool's cores
  ThreadPool* pool = nullptr;
  std::filesystem::path target;  // the checkpoint directory
  Recipe recipe;
  nlohmann::json choice;  // why this recipe, for the report; null if it was asked for
  std::vector<int32_t> calibration_ids;  // empty: only for recipes that NeedsCalibration refuses
  int64_t calibration_context = 2048;    // tokens a window
  // Files beside the tensors (name, text), such as a tokenizer made from GGUF; the source's own
  // auxiliary files are copied as well.
  std::vector<std::pair<std::string, std::string>> extra_files;
  SavePolicy save;
  // Tried on the finished checkpoint before it appears under its name; for the report. May be
  // empty.
  std::function<nlohmann::json(const std::filesystem::path& checkpoint)> measure;
  // step is a short phrase; fraction of the whole in [0, 1].
  std::function<void(std::string_view step, double fraction)> progress;
};

bool NeedsCalibration(const Recipe& recipe);

// Errors: CheckRecipe's, the reader's and the writer's; kCorrupt naming a tensor with a NaN;
// kInvalidArgument if calibration is needed and there are too few ids.
Report Quantize(const QuantizeJob& job);

}  // namespace fireq::quant
