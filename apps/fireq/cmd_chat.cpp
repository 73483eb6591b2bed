#include <unistd.h>

#include <iostream>
#include <memory>

#include "sampling_options.h"

namespace fireq::app {
namespace {

struct ChatOptions {
  CommonOptions common;
  std::string model, system;
  GenerateRequest request;
  int tensor_parallel = 1;
};

void RunChat(const ChatOptions& options) {
  LoadOptions load;
  load.runtime = options.common.Runtime();
  load.tensor_parallel = options.tensor_parallel;
  LanguageModel model = LanguageModel::Load(options.model, load);
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) std::cerr << "Type a message; /reset starts over, /exit or Ctrl-D leaves.\n";

  nlohmann::json messages = nlohmann::json::array();
  const auto reset = [&] {
    messages.clear();
    if (!options.system.empty())
      messages.push_back({{"role", "system"}, {"content", options.system}});
  };
  reset();
  std::string line;
  while ((terminal ? (std::cerr << "> " << std::flush, true) : true) &&
         std::getline(std::cin, line)) {
    if (line.empty()) continue;
    if (line == "/exit") break;
    if (line == "/reset") {
      reset();
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", line}});
    GenerateRequest request = options.request;
    request.prompt =
        model.RenderChat(messages.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    request.add_special = false;  // the template writes what it wants
    request.parse_special = true;
    const GenerateResult result = model.Generate(request, [](std::string_view text) {
      PrintOut(std::string(text));
      return true;
    });
    PrintOut("\n");
    messages.push_back({{"role", "assistant"}, {"content", result.text}});
  }
}

}  // namespace

void AddChat(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("chat", "Talk with a model, one message a line of standard input");
  auto options = std::make_shared<ChatOptions>();
  options->request.temperature = 0.7f;
  options->request.top_p = 0.95f;
  options->request.max_new_tokens = 512;
  command->add_option("MODEL", options->model, kModelHelp)->required();
  command->add_option("--system", options->system, "System message");
  command
      ->add_option("-n,--max-new-tokens", options->request.max_new_tokens,
                   "Tokens an answer at most")
      ->capture_default_str();
  AddSampling(*command, options->request);
  AddTensorParallel(*command, options->tensor_parallel);
  options->common.AddTo(*command, /*with_json=*/false);
  command->callback([options] { RunChat(*options); });
}

}  // namespace fireq::app
