#include <memory>

#include "command.h"

namespace fireq::app {
namespace {

constexpr const char* kFooter = R"(Recipes (docs/QUANTISATION.md):
  default         the best fixed recipe, chosen by measurement on calibration text
  auto            the best of a few for this model, by trial on held-out calibration text
  fireq           the paper's: CAS by mean, per-tensor t, RPN, CRS, symmetric INT4
  fireq-absmax    the same with CAS by absolute maximum
  qoq             a rival's (QServe), stored as BF16 values: to be measured, not served
  rtn             plain round to nearest
A recipe is also a JSON file. --set changes one part of it, e.g. --set kv=asymmetric
--set weights.grid=signed --set exclude='layers\.0\..*'

On a GPU (--device cuda, or auto where there is a Hopper one) the same equations are solved with sums
in another order, so that some codes differ from the CPU's.

A run that is killed keeps its finished blocks in OUT.resume; the same command goes on from them and
ends with the same bytes. --restart throws them away.

Example:
  fireq quantize smollm2-135m -o out --calib text.txt --recipe fireq --set crs=false
)";

struct QuantizeOptions {
  CommonOptions common;
  QuantizeRequest request;
  std::string calibration_file;
};

void RunQuantize(const QuantizeOptions& options) {
  QuantizeRequest request = options.request;
  request.runtime = options.common.Runtime();
  if (!options.calibration_file.empty())
    request.calibration_text = ReadWhole(options.calibration_file);
  std::string report;
  {
    Progress progress;
    request.progress = [&](std::string_view step, double fraction) {
      progress.Update(std::string(step), fraction);
    };
    report = Quantize(request);
  }
  if (options.common.json) {
    PrintOut(report + "\n");
  } else {
    PrintOut("wrote " + request.output_dir + "\n");
  }
}

}  // namespace

void AddQuantize(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "quantize", "Quantise a float model to W4A8KV4: INT4 weights and KV cache, FP8 activations");
  auto options = std::make_shared<QuantizeOptions>();
  QuantizeRequest& r = options->request;
  command->add_option("MODEL", r.model, kModelHelp);
  command->add_option("--synthetic", r.synthetic,
                      "Instead of MODEL random weights in the shapes of llama-3-8b, llama-2-7b, "
                      "llama-2-13b, llama-2-70b or tiny, calibrated on random ids");
  command->add_option("--layers", r.layers, "Layers of the synthetic model (default: all)");
  command->add_option("-o,--output", r.output_dir, "Checkpoint directory to write")->required();
  command->add_option("--recipe", r.recipe, "Recipe name or JSON file")->capture_default_str();
  command->add_option("--set", r.settings, "KEY=VALUE over the recipe; may be repeated")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--calib", options->calibration_file,
                   "Calibration text, UTF-8; - is standard input")
      ->type_name("TEXTFILE");
  command->add_option("--calib-tokens", r.calibration_tokens, "Tokens of it to use")
      ->capture_default_str();
  command->add_option("--calib-context", r.calibration_context, "Tokens a window")
      ->capture_default_str();
  command
      ->add_option(
          "--held-out-tokens", r.held_out_tokens,
          "Tokens of it behind those: perplexity and KL on them go into the report; 0: none")
      ->capture_default_str();
  command->add_option("--seed", r.seed, "Seed of whatever is random")
      ->check(NotNegative())
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--save-every", r.save_every_seconds,
                   "Least seconds between two saves of finished blocks")
      ->check(NotNegative())
      ->type_name("SECONDS")
      ->capture_default_str();
  command->add_flag("--restart", r.restart, "Begin anew, whatever a killed run has left");
  options->common.AddTo(*command);
  command->footer(kFooter);
  command->callback([options] { RunQuantize(*options); });
}

}  // namespace fireq::app
