#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "command.h"

namespace fireq::app {
namespace {

struct EvalPerplexityOptions {
  CommonOptions common;
  std::string model, text_file, reference, reference_device;
  PerplexityRequest request;
  ProductsMode products = ProductsMode::kServed;
  LmHead lm_head = LmHead::kAsStored;
  int tensor_parallel = 1;
};

void RunEvalPerplexity(const EvalPerplexityOptions& options) {
  PerplexityRequest request = options.request;
  request.text = ReadWhole(options.text_file);
  const RuntimeOptions runtime = options.common.Runtime();
  LoadOptions load{runtime, request.context, options.products, options.lm_head,
                   options.tensor_parallel};
  LanguageModel model = LanguageModel::Load(options.model, load);
  load.lm_head = LmHead::kAsStored;  // of the reference
  load.tensor_parallel = 1;
  if (!options.reference_device.empty()) load.runtime.device = options.reference_device;
  std::optional<LanguageModel> reference;
  if (!options.reference.empty()) reference.emplace(LanguageModel::Load(options.reference, load));

  PerplexityReport report;
  std::vector<double> window_losses;  // two runs on one text are compared in pairs of windows
  {
    Progress progress;
    double sum = 0.0;
    request.progress = [&](int64_t done, int64_t total, double perplexity) {
      const double with_this = std::log(perplexity) * static_cast<double>(window_losses.size() + 1);
      window_losses.push_back(with_this - std::exchange(sum, with_this));
      progress.Update(StrCat(done, " of ", total, " tokens, perplexity ", perplexity),
                      static_cast<double>(done) / static_cast<double>(total));
    };
    report = model.EvaluatePerplexity(request, reference ? &*reference : nullptr);
  }

  nlohmann::ordered_json out = {{"perplexity", report.perplexity},
                                {"perplexity_stderr", report.perplexity_stderr},
                                {"tokens", report.tokens},
                                {"seconds", report.seconds},
                                {"tokens_per_second", report.tokens_per_second}};
  if (report.distance) {
    out["kl_mean"] = report.distance->kl_mean;
    out["kl_stderr"] = report.distance->kl_stderr;
    out["kl_p99"] = report.distance->kl_p99;
    out["top1_agreement"] = report.distance->top1_agreement;
    out["top1_stderr"] = report.distance->top1_stderr;
    out["reference_perplexity"] = report.distance->reference_perplexity;
    out["reference_perplexity_stderr"] = report.distance->reference_perplexity_stderr;
  }
  if (options.common.json) {
    out["window_losses"] = window_losses;
    PrintJson(out);
    return;
  }
  std::string text;
  for (const auto& [key, value] : out.items()) text += key + ": " + value.dump() + "\n";
  PrintOut(text);
}

}  // namespace

void AddEval(CLI::App& app) {
  CLI::App* eval = app.add_subcommand("eval", "Measure a model");
  eval->require_subcommand(1);
  CLI::App* command = eval->add_subcommand(
      "perplexity", "Perplexity on a text, and the distance from a reference model");
  auto options = std::make_shared<EvalPerplexityOptions>();
  command->add_option("MODEL", options->model, kModelHelp)->required();
  command->add_option("--text", options->text_file, "Text, UTF-8; - is standard input")
      ->required()
      ->type_name("FILE");
  command->add_option("--context", options->request.context, "Tokens a window")
      ->capture_default_str();
  command->add_option("--max-tokens", options->request.max_tokens,
                      "Use this many tokens at most, in whole windows (0: all)");
  command->add_option("--chunk", options->request.chunk,
                      "Tokens of a window run at a time (0: all; 1: as decoding runs them)");
  command->add_option("--reference", options->reference,
                      "Float model to measure KL divergence and top-1 agreement against");
  command->add_option("--reference-device", options->reference_device,
                      "Where that one runs (default: as --device)");
  AddLmHead(*command, options->lm_head);
  AddProducts(*command, options->products);
  AddTensorParallel(*command, options->tensor_parallel);
  options->common.AddTo(*command);
  command->footer(
      "Example:\n  fireq eval perplexity out --text test.txt --max-tokens 65536 --reference "
      "smollm2-135m\n");
  command->callback([options] { RunEvalPerplexity(*options); });
  AddEvalTasks(*eval);
  AddEvalTrace(*eval);
}

}  // namespace fireq::app
