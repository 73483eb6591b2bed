#include <memory>

#include "command.h"

namespace fireq::app {

void AddTokenize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenize", "Token ids of a text");
  struct Options {
    CommonOptions common;
    std::string model, file;
    bool add_special = false;
  };
  auto options = std::make_shared<Options>();
  command
      ->add_option("MODEL", options->model,
                   std::string(kModelHelp) + "; also a directory of tokenizer files alone")
      ->required();
  command->add_option("--file", options->file, "Text, UTF-8; - is standard input")
      ->required()
      ->type_name("FILE");
  command->add_flag("--add-special", options->add_special,
                    "Add what the tokenizer adds around a text (BOS)");
  options->common.AddTo(*command);
  command->footer("Example:\n  echo Hello | fireq tokenize smollm2-135m --file -\n");
  command->callback([options] {
    const std::vector<int32_t> ids = Tokenize(options->model, ReadWhole(options->file),
                                              options->add_special, options->common.Runtime());
    if (options->common.json) {
      PrintJson({{"ids", ids}});
      return;
    }
    std::string text;
    for (const int32_t id : ids) text += std::to_string(id) + "\n";
    PrintOut(text);
  });
}

}  // namespace fireq::app
