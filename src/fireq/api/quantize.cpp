#include <filesystem>

#include "fireq/api/choose_recipe.h"
#include "fireq/api/fireq.h"
#include "fireq/api/held_out.h"
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

void CheckRequest(const QuantizeRequest& request) {
  const auto at_least = [](const char* name, int64_t value, int64_t least) {
    FIREQ_CHECK(value >= least, kInvalidArgument, name, " must be >= ", least, ", got ", value);
  };
  at_least("calibration tokens", request.calibration_tokens, 1);
  at_least("calibration context", request.calibration_context, 2);
  at_least("held-out tokens", request.held_out_tokens, 0);
}

// All of the text: what is behind the calibration tokens is to judge on.
std::vector<int32_t> TextIds(const std::filesystem::path& model, const QuantizeRequest& request) {
  if (request.calibration_text.empty()) return {};
  const TextTools tools = LoadTextTools(model);
  return tools.tokenizer.Encode(request.calibration_text);
}

// What the report is measured on: text that neither calibration nor the choice of a recipe saw.
std::vector<int32_t> HeldOutIds(std::span<const int32_t> ids, int64_t first,
                                const QuantizeRequest& request) {
  const int64_t begin = std::min(std::ssize(ids), first);
  const int64_t count = std::min(std::ssize(ids) - begin, request.held_out_tokens);
  const auto held_out = ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  return {held_out.begin(), held_out.end()};
}

// In memory are one block of each model, their embeddings and their heads.
nlohmann::json Measure(const quant::QuantizeJob& job, const std::filesystem::path& checkpoint,
                       std::span<const int32_t> ids) {
  const int64_t context = std::min(job.calibration_context, std::ssize(ids));
  return ToJson(MeasureHeldOut(*job.backend, OpenModel(*job.backend, checkpoint),
                               OpenModel(*job.backend, job.source->path()), ids, context,
                               job.pool->num_threads()),
                context);
}

}  // namespace

std::string Quantize(const QuantizeRequest& request) {
  CheckRequest(request);
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
  int64_t first_unseen = request.calibration_tokens;
  if (choose) {
    RecipeChoice choice = ChooseRecipe(job, ids, request.calibration_tokens, settings);
    job.recipe = choice.recipe;
    job.choice = std::move(choice.reasons);
    first_unseen = std::max(first_unseen, choice.first_unseen);
  }
  const std::vector<int32_t> held_out = HeldOutIds(ids, first_unseen, request);
  if (held_out.size() >= 2)
    job.measure = [&](const std::filesystem::path& checkpoint) {
      return Measure(job, checkpoint, held_out);
    };
  ids.resize(std::min(ids.size(), static_cast<size_t>(request.calibration_tokens)));
  job.calibration_ids = std::move(ids);
  return ToJson(quant::Quantize(job)).dump();
}

}  // namespace fireq
