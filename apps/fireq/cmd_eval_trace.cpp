#include <algorithm>
#include <map>
#include <memory>

#include "command.h"

namespace fireq::app {
namespace {

struct EvalTraceOptions {
  CommonOptions common;
  CompareRequest request;
  std::string text_file;
  double tolerance = 0.01;
};

std::string Place(const TensorDistance& d) {
  return d.layer < 0 ? d.name : StrCat("layer ", d.layer, " ", d.name);
}

// All tensors of one name: the largest error, and means of the rest over the layers.
struct Summary {
  const TensorDistance* largest;
  double gain = 0.0;
  double changed = 0.0;
  int count = 0;
};

// In the order of the pass.
std::vector<Summary> Summarise(const std::vector<TensorDistance>& distances) {
  std::vector<Summary> out;
  for (const TensorDistance& d : distances) {
    auto at = std::ranges::find(out, d.name, [](const Summary& s) { return s.largest->name; });
    if (at == out.end()) at = out.insert(out.end(), {&d});
    if (!(d.relative_error <= at->largest->relative_error)) at->largest = &d;
    at->gain += d.gain;
    at->changed += d.changed;
    ++at->count;
  }
  for (Summary& s : out) {
    s.gain /= s.count;
    s.changed /= s.count;
  }
  return out;
}

void RunEvalTrace(const EvalTraceOptions& options) {
  CompareRequest request = options.request;
  request.runtime = options.common.Runtime();
  if (!options.text_file.empty()) request.text = ReadWhole(options.text_file);
  const std::vector<TensorDistance> distances = CompareDevices(request);
  const auto first = std::ranges::find_if(
      distances, [&](const TensorDistance& d) { return !(d.relative_error <= options.tolerance); });
  const std::string verdict = first == distances.end() ? "none" : Place(*first);
  nlohmann::ordered_json out = {{"tolerance", options.tolerance},
                                {"first_beyond_tolerance", verdict}};
  std::string text = "tensor: largest error, mean gain, mean share that differs\n";
  for (const Summary& s : Summarise(distances)) {
    const std::string place = Place(*s.largest);
    out["tensors"][place] = {
        {"relative_error", s.largest->relative_error}, {"gain", s.gain}, {"changed", s.changed}};
    text += StrCat(place, ": ", s.largest->relative_error, " ", s.gain, " ", s.changed, "\n");
  }
  if (options.common.json) return PrintJson(out);
  PrintOut(StrCat(text, "first beyond ", options.tolerance, ": ", verdict, "\n"));
}

}  // namespace

void AddEvalTrace(CLI::App& eval) {
  CLI::App* command = eval.add_subcommand(
      "trace", "Compare a forward pass on the CPU and on another device, tensor by tensor");
  auto options = std::make_shared<EvalTraceOptions>();
  command->add_option("MODEL", options->request.model, kModelHelp);
  command->add_option("--synthetic", options->request.synthetic,
                      "Instead of MODEL random weights in the shapes of a known one (tiny, ...)");
  command
      ->add_option("--text", options->text_file,
                   "Text, UTF-8; - is standard input (default: random tokens)")
      ->type_name("FILE");
  command->add_option("--tokens", options->request.tokens, "Tokens of the pass, at most")
      ->capture_default_str();
  command
      ->add_option("--tolerance", options->tolerance, "Relative error that counts as a difference")
      ->capture_default_str();
  AddProducts(*command, options->request.products);
  options->common.AddTo(*command);
  command->footer(
      "A line for each tensor of a block, of the layer where the error is largest.\n\n"
      "Example:\n  fireq eval trace out --text text.txt --device cuda\n");
  command->callback([options] { RunEvalTrace(*options); });
}

}  // namespace fireq::app
