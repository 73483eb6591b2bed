#include <filesystem>

#include "fireq/api/fireq.h"
#include "fireq/api/text_tools.h"
#include "fireq/api/wiring.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/io/gguf.h"
#include "fireq/quant/pipeline.h"
#include "fireq/text/gguf_tokenizer.h"

namespace fireq {
namespace {

// A checkpoint carries its tokenizer; one made from GGUF gets it rewritten as Hugging Face files.
std::vector<std::pair<std::string, std::string>> TokenizerFilesOf(const ModelSource& source) {
  if (source.gguf() == nullptr) return {};
  const text::TokenizerFiles files =
      text::ConvertGgufTokenizer(source.gguf()->metadata(), source.path().string());
  return {{"tokenizer.json", files.tokenizer.dump()},
          {"tokenizer_config.json", files.config.dump(2)}};
}

std::vector<int32_t> CalibrationIds(const std::filesystem::path& model,
                                    const QuantizeRequest& request) {
  if (request.calibration_text.empty()) return {};
  const TextTools tools = LoadTextTools(model);
  std::vector<int32_t> ids = tools.tokenizer.Encode(request.calibration_text);
  FIREQ_CHECK(request.calibration_tokens > 0, kInvalidArgument,
              "calibration tokens must be > 0, got ", request.calibration_tokens);
  if (static_cast<int64_t>(ids.size()) > request.calibration_tokens)
    ids.resize(static_cast<size_t>(request.calibration_tokens));
  return ids;
}

}  // namespace

std::string Quantize(const QuantizeRequest& request) {
  const std::filesystem::path model = ResolveModel(request.model, request.runtime);
  quant::QuantizeJob job;
  job.recipe = quant::LoadRecipe(request.recipe);
  if (request.seed != 0) job.recipe.seed = static_cast<int64_t>(request.seed);
  for (const std::string& setting : request.settings) quant::ApplySetting(job.recipe, setting);
  const auto source = ModelSource::Open(model);
  ThreadPool pool(request.runtime.num_threads);
  const auto backend = MakeFloatBackend(request.runtime);
  job.source = source.get();
  job.backend = backend.get();
  job.pool = &pool;
  job.target = request.output_dir;
  job.calibration_ids = CalibrationIds(model, request);
  job.calibration_context = request.calibration_context;
  job.extra_files = TokenizerFilesOf(*source);
  job.save = {request.save_every_seconds, request.restart};
  job.progress = request.progress;
  return ToJson(quant::Quantize(job)).dump();
}

}  // namespace fireq
