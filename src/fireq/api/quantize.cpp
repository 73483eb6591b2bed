#include <filesystem>

#include "fireq/api/choose_recipe.h"
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

// All of the text: auto judges on what is behind the calibration tokens.
std::vector<int32_t> TextIds(const std::filesystem::path& model, const QuantizeRequest& request) {
  if (request.calibration_text.empty()) return {};
  const TextTools tools = LoadTextTools(model);
  FIREQ_CHECK(request.calibration_tokens > 0, kInvalidArgument,
              "calibration tokens must be > 0, got ", request.calibration_tokens);
  return tools.tokenizer.Encode(request.calibration_text);
}

}  // namespace

std::string Quantize(const QuantizeRequest& request) {
  const std::filesystem::path model = ResolveModel(request.model, request.runtime);
  quant::QuantizeJob job;
  const bool choose = request.recipe == "auto";
  std::vector<std::string> settings = request.settings;
  if (request.seed != 0) settings.insert(settings.begin(), StrCat("seed=", request.seed));
  if (!choose) job.recipe = quant::LoadRecipe(request.recipe);
  for (const std::string& setting : settings) quant::ApplySetting(job.recipe, setting);
  const auto source = ModelSource::Open(model);
  ThreadPool pool(request.runtime.num_threads);
  const auto backend = MakeFloatBackend(request.runtime);
  job.source = source.get();
  job.backend = backend.get();
  job.pool = &pool;
  job.target = request.output_dir;
  std::vector<int32_t> ids = TextIds(model, request);
  job.calibration_context = request.calibration_context;
  job.extra_files = TokenizerFilesOf(*source);
  job.save = {request.save_every_seconds, request.restart};
  job.progress = request.progress;
  if (choose) {
    RecipeChoice choice = ChooseRecipe(job, ids, request.calibration_tokens, settings);
    job.recipe = choice.recipe;
    job.choice = std::move(choice.reasons);
  }
  ids.resize(std::min(ids.size(), static_cast<size_t>(request.calibration_tokens)));
  job.calibration_ids = std::move(ids);
  return ToJson(quant::Quantize(job)).dump();
}

}  // namespace fireq
