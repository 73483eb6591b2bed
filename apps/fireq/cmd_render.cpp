#include <memory>

#include "command.h"

namespace fireq::app {

void AddRender(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("render", "The text that a chat template makes of messages");
  struct Options {
    CommonOptions common;
    std::string model, messages_file;
    bool no_generation_prompt = false;
  };
  auto options = std::make_shared<Options>();
  command
      ->add_option("MODEL", options->model,
                   std::string(kModelHelp) + "; also a directory of tokenizer files alone")
      ->required();
  command
      ->add_option(
          "--messages", options->messages_file,
          R"(JSON list of {"role", "content"}, or an object with "messages" and what else the )"
          R"(template reads, such as "tools"; - is standard input)")
      ->required()
      ->type_name("FILE");
  command->add_flag("--no-generation-prompt", options->no_generation_prompt,
                    "Do not open the assistant's answer");
  options->common.AddTo(*command);
  command->footer("Example:\n  fireq render smollm2-135m --messages chat.json\n");
  command->callback([options] {
    const std::string text = RenderChat(options->model, ReadWhole(options->messages_file),
                                        !options->no_generation_prompt, options->common.Runtime());
    if (options->common.json) {
      PrintJson({{"text", text}});
    } else {
      PrintOut(text);
    }
  });
}

}  // namespace fireq::app
