#include <algorithm>
#include <map>
#include <memory>

#include "command.h"

namespace fireq::app {
namespace {

struct Options {
  CommonOptions common;
  CompareRequest request;
  std::string text_file;
  double tolerance = 0.01;
};

std::string Place(const TensorDistance& d) {
  return d.layer < 0 ? d.name : StrCat("layer ", d.layer, " ", d.name);
}

void Run(const Options& options) {
  CompareRequest request = options.request;
  request.runtime = options.common.Runtime();
  if (!options.text_file.empty()) request.text = ReadWhole(options.text_file);
  const std::vector<TensorDistance> distances = CompareDevices(request);
  // The largest of each name over the layers, in the order of the pass.
  std::vector<const TensorDistance*> largest;
  const TensorDistance* first_beyond = nullptr;
  for (const TensorDistance& d : distances) {
    if (first_beyond == nullptr && !(d.relative_error <= options.tolerance)) first_beyond = &d;
    const auto same = std::ranges::find(largest, d.name, &TensorDistance::name);
    if (same == largest.end()) {
      largest.push_back(&d);
    } else if (!(d.relative_error <= (*same)->relative_error)) {
      *same = &d;
    }
  }
  const std::string verdict = first_beyond == nullptr ? "none" : Place(*first_beyond);
  if (options.common.json) {
    nlohmann::ordered_json out = {{"tolerance", options.tolerance},
                                  {"first_beyond_tolerance", verdict}};
    for (const TensorDistance* d : largest) out["largest"][Place(*d)] = d->relative_error;
    return PrintJson(out);
  }
  std::string text;
  for (const TensorDistance* d : largest) text += StrCat(Place(*d), ": ", d->relative_error, "\n");
  PrintOut(StrCat(text, "first beyond ", options.tolerance, ": ", verdict, "\n"));
}

}  // namespace

void AddEvalTrace(CLI::App& eval) {
  CLI::App* command = eval.add_subcommand(
      "trace", "Compare a forward pass on the CPU and on another device, tensor by tensor");
  auto options = std::make_shared<Options>();
  command->add_option("MODEL", options->request.model, kModelHelp);
  command->add_option("--synthetic", options->request.synthetic,
                      "Instead of MODEL random weights in the shapes of a known one (tiny, ...)");
  command->add_option("--text", options->text_file, "Text, UTF-8 (default: random tokens)")
      ->type_name("FILE");
  command->add_option("--tokens", options->request.tokens, "Tokens of the pass, at most")
      ->capture_default_str();
  command
      ->add_option("--tolerance", options->tolerance, "Relative error that counts as a difference")
      ->capture_default_str();
  AddProducts(*command, options->request.products);
  options->common.AddTo(*command);
  command->callback([options] { Run(*options); });
}

}  // namespace fireq::app
