#include <algorithm>
#include <memory>

#include "command.h"

namespace fireq::app {
namespace {

// "  key: value" a line; arrays of tensors one a line.
void Describe(const nlohmann::ordered_json& value, int depth, std::string& out) {
  for (const auto& [key, item] : value.items()) {
    out += std::string(static_cast<size_t>(depth) * 2, ' ') + key + ":";
    if (item.is_object()) {
      out += "\n";
      Describe(item, depth + 1, out);
    } else {
      out += " " + (item.is_string() ? item.get<std::string>() : item.dump()) + "\n";
    }
  }
}

}  // namespace

void AddInspect(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "Show what a model, checkpoint or tensor file holds");
  struct Options {
    CommonOptions common;
    std::string path;
  };
  auto options = std::make_shared<Options>();
  command->add_option("PATH", options->path, std::string(kModelHelp) + "; also a .safetensors file")
      ->required();
  options->common.AddTo(*command);
  command->footer("Example:\n  fireq inspect out/model.safetensors --json\n");
  command->callback([options] {
    const std::string json = InspectJson(options->path, options->common.Runtime());
    if (options->common.json) {
      PrintOut(json + "\n");
      return;
    }
    std::string text;
    Describe(nlohmann::ordered_json::parse(json), 0, text);
    PrintOut(text);
  });
}

}  // namespace fireq::app
