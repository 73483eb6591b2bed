#include <memory>
#include <utility>

#include "generation_options.h"

namespace fireq::app {
namespace {

void RunGenerate(const GenerationOptions& options) {
  LanguageModel model = options.Load();
  if (options.common.json) {
    const GenerateResult result = model.Generate(options.request);
    PrintJson({{"text", result.text},
               {"ids", result.ids},
               {"prompt_ids", result.prompt_ids},
               {"finish_reason", result.finish_reason},
               {"prefill_tokens_per_second", result.prefill_tokens_per_second},
               {"decode_tokens_per_second", result.decode_tokens_per_second}});
    return;
  }
  // With the first new text, so that a request that is refused prints nothing.
  std::string prompt = options.request.prompt;
  model.Generate(options.request, [&](std::string_view text) {
    PrintOut(std::exchange(prompt, "") + std::string(text));
    return true;
  });
  PrintOut(prompt + "\n");
}

}  // namespace

void AddGenerate(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt");
  auto options = std::make_shared<GenerationOptions>();
  GenerateRequest& r = options->request;
  command->add_option("MODEL", options->model, kModelHelp)->required();
  CLI::Option_group* prompt = command->add_option_group("prompt");
  prompt->add_option("--prompt", r.prompt, "Text to continue");
  prompt->add_option("--prompt-ids", r.prompt_ids, "Token ids to continue: 1,2,3")->delimiter(',');
  prompt->require_option(1);
  command->add_option("-n,--max-new-tokens", r.max_new_tokens, "New tokens at most")
      ->capture_default_str();
  command->add_flag("--ignore-eos", r.ignore_eos, "Go on past the end-of-text token");
  AddSampling(*command, r);
  AddTensorParallel(*command, options->tensor_parallel);
  options->common.AddTo(*command);
  command->footer(
      "Example:\n  fireq generate smollm2-135m --prompt 'The capital of France is' "
      "-n 20\n");
  command->callback([options] { RunGenerate(*options); });
}

}  // namespace fireq::app
