#include <filesystem>

#include "fireq/api/choose_recipe.h"
#include "fireq/api/fireq.h"
#include "fireq/api/held_out.h"
#include "fireq/api/text_tools.h"
#include "fireq/api/wiring.h"
#include "fireq/base/philox.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/io/gguf.h"
#include "fireq/model/synthetic_source.h"
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
  FIREQ_CHECK(request.model.empty() != request.synthetic.empty(), kInvalidArgument,
              "either a model or the name of a synthetic one");
  FIREQ_CHECK(request.layers == 0 || request.model.empty(), kInvalidArgument, request.layers,
              " layers of ", request.model, ": only a synthetic model is cut");
  FIREQ_CHECK(request.synthetic.empty() || request.calibration_text.empty(), kInvalidArgument,
              "a synthetic model has no tokenizer: it is calibrated on random ids");
  FIREQ_CHECK(request.synthetic.empty() || request.recipe != "auto", kInvalidArgument,
              "recipe auto compares models on text, which a synthetic one does not know");
}

// All of the text: what is behind the calibration tokens is to judge on.
std::vector<int32_t> TextIds(const std::filesystem::path& model, const QuantizeRequest& request) {
  if (request.calibration_text.empty()) return {};
  const TextTools tools = LoadTextTools(model);
  return tools.tokenizer.Encode(request.calibration_text);
}

// Says so where the text is shorter than what was asked for: the model is then fitted to less.
void SayIfShort(int64_t tokens, const QuantizeRequest& request) {
  const int64_t context = request.calibration_context;
  const int64_t windows = std::min(tokens, request.calibration_tokens) / context;
  if (!request.runtime.say || windows == 0 || windows == request.calibration_tokens / context)
    return;
  request.runtime.say(StrCat("The calibration text has ", tokens, " tokens: ", windows * context,
                             " of them are used, in windows of ", context, ", and ",
                             request.calibration_tokens, " were asked for"));
}

// Calibration ids for a model without a tokenizer.
std::vector<int32_t> RandomIds(int64_t vocabulary, const QuantizeRequest& request) {
  std::vector<int32_t> ids(static_cast<size_t>(request.calibration_tokens));
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint64_t draw =
        Philox(request.seed, {{static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 4}})
            .word[0];
    ids[i] = static_cast<int32_t>(draw * static_cast<uint64_t>(vocabulary) >> 32);
  }
  return ids;
}

// Whether the GPU's kernels run the model as it will be stored.
bool GpuRuns(const quant::Recipe& recipe, const ModelConfig& config) {
  const Arithmetic arithmetic = quant::ArithmeticOf(recipe);
  const bool whole = config.hidden % 64 == 0 && config.ffn % 64 == 0 &&
                     (config.head_dim == 64 || config.head_dim == 128);
  return quant::StoresCodes(recipe) && recipe.exclude.empty() && whole && arithmetic.bf16_borders &&
         arithmetic.activations == Activations::kE4M3 && arithmetic.e4m3_query &&
         arithmetic.kv != KvGrid::kFloat;
}

// What quantises, and measures what it made.
struct Machine {
  Quantiser quantiser;
  std::unique_ptr<Backend> other;  // the CPU's, if the quantiser's cannot run the result
  Backend& measuring() const { return other ? *other : *quantiser.backend; }
};

Machine MakeMachine(RuntimeOptions runtime, const quant::Recipe& recipe,
                    const ModelConfig& config) {
  const bool runs = GpuRuns(recipe, config);
  if (runtime.device == "auto" && !runs) runtime.device = "cpu";
  Machine out{MakeQuantiser(runtime), nullptr};
  if (!out.quantiser.fitter || runs) return out;
  FIREQ_CHECK(!recipe.follow, kUnsupported,
              "the GPU's kernels do not run the model that this recipe makes and follows; quantise "
              "it with --device cpu");
  out.other = MakeFloatBackend(runtime);
  return out;
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
nlohmann::json Measure(const quant::QuantizeJob& job, Backend& backend,
                       const std::filesystem::path& checkpoint, std::span<const int32_t> ids) {
  const int64_t context = std::min(job.calibration_context, std::ssize(ids));
  return ToJson(
      MeasureHeldOut(backend, OpenModel(backend, checkpoint),
                     OpenModel(backend, job.source->path()), ids, context, job.pool->num_threads()),
      context);
}

}  // namespace

std::string Quantize(const QuantizeRequest& request) {
  CheckRequest(request);
  const bool synthetic = !request.synthetic.empty();
  const std::filesystem::path model = synthetic ? "" : ResolveModel(request.model, request.runtime);
  quant::QuantizeJob job;
  const bool choose = request.recipe == "auto";
  std::vector<std::string> settings = request.settings;
  if (request.seed != 0) settings.insert(settings.begin(), StrCat("seed=", request.seed));
  if (!choose) job.recipe = quant::LoadRecipe(request.recipe);
  for (const std::string& setting : settings) quant::ApplySetting(job.recipe, setting);
  const auto source =
      synthetic ? MakeSyntheticSource(request.synthetic, request.layers) : ModelSource::Open(model);
  ThreadPool pool(request.runtime.num_threads);
  const Machine machine = MakeMachine(request.runtime, job.recipe, source->config());
  job.source = source.get();
  job.backend = machine.quantiser.backend.get();
  job.fitter = machine.quantiser.fitter.get();
  job.pool = &pool;
  job.target = request.output_dir;
  std::vector<int32_t> ids =
      synthetic ? RandomIds(source->config().vocab_size, request) : TextIds(model, request);
  if (choose || quant::NeedsCalibration(job.recipe)) SayIfShort(std::ssize(ids), request);
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
      return Measure(job, machine.measuring(), checkpoint, held_out);
    };
  ids.resize(std::min(ids.size(), static_cast<size_t>(request.calibration_tokens)));
  job.calibration_ids = std::move(ids);
  return ToJson(quant::Quantize(job)).dump();
}

}  // namespace fireq
