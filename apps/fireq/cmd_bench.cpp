#include <cstdio>
#include <memory>
#include <utility>

#include "command.h"

namespace fireq::app {
namespace {

struct BenchOptions {
  CommonOptions common;
  BenchRequest request;
  double baseline = 0.0;
  bool compare = false;
};

// Tokens a second of BF16 GEMMs and attention in the same shapes, by PyTorch.
double TorchBaseline(const BenchShape& s) {
  std::string command =
      StrCat("python3 '", FindBenchProgram("torch_baseline.py").string(), "' ", s.phase);
  for (const int64_t value : {s.hidden, s.ffn, s.layers, s.heads, s.kv_heads, s.head_dim, s.vocab,
                              s.batch, s.input, s.output, s.max_tokens, s.requests})
    command += StrCat(" ", value);
  std::FILE* pipe = popen(command.c_str(), "r");
  FIREQ_CHECK(pipe != nullptr, kIo, "cannot run ", command);
  double rate = 0.0;
  const bool read = std::fscanf(pipe, "%lf", &rate) == 1;
  FIREQ_CHECK(pclose(pipe) == 0 && read && rate > 0.0, kUnsupported,
              "--compare needs python3 with PyTorch and a GPU; this failed: ", command);
  return rate;
}

std::string CsvLine(const std::vector<std::string>& values) {
  std::string line;
  for (const std::string& value : values) {
    if (!line.empty() || &value != &values.front()) line += ",";
    line += value.find(',') == std::string::npos ? value : "\"" + value + "\"";
  }
  return line + "\n";
}

// A number as such, nothing as null.
nlohmann::ordered_json JsonValue(const std::string& value) {
  if (value.empty()) return nullptr;
  const auto parsed = nlohmann::ordered_json::parse(value, nullptr, /*allow_exceptions=*/false);
  return parsed.is_number() ? parsed : nlohmann::ordered_json(value);
}

void RunBench(const BenchOptions& options) {
  BenchRequest request = options.request;
  request.runtime = options.common.Runtime();
  if (options.compare) request.baseline = TorchBaseline;
  if (options.baseline > 0.0)
    request.baseline = [&](const BenchShape&) { return options.baseline; };
  const std::vector<std::string> columns = BenchColumns(request.phase);
  bool begun = false;
  request.on_row = [&](const std::vector<std::string>& values) {
    if (!options.common.json) {
      // With the first row, so that a refused request leaves nothing on standard output.
      if (!std::exchange(begun, true)) PrintOut(CsvLine(columns));
      return PrintOut(CsvLine(values));
    }
    nlohmann::ordered_json row;
    for (size_t i = 0; i < columns.size(); ++i) row[columns[i]] = JsonValue(values[i]);
    PrintJson(row);
  };
  Bench(request);
}

void AddPhase(CLI::App& bench, const std::string& phase, const std::string& help) {
  CLI::App* command = bench.add_subcommand(phase, help);
  auto options = std::make_shared<BenchOptions>();
  options->request.phase = phase;
  BenchRequest& request = options->request;
  command->add_option("MODEL", request.model, kModelHelp);
  command->add_option("--synthetic", request.synthetic,
                      "Instead of MODEL random weights in the shapes of llama-3-8b, llama-2-7b, "
                      "llama-2-13b, llama-2-70b or tiny");
  command->add_option("--layers", request.layers, "Layers of the synthetic model (default: all)");
  command->add_option("--shape", request.shapes, "BATCHxINPUTxOUTPUT; several are measured in turn")
      ->required();
  command->add_option("--max-tokens", request.max_tokens, "Tokens of a step")
      ->capture_default_str();
  command->add_option("--memory-gib", request.memory_gib,
                      "Budget besides the weights (default: nine tenths of what is free)");
  if (phase == "prefill")
    command->add_option("--repeats", request.repeats, "The median of so many runs")
        ->capture_default_str();
  if (phase == "serve")
    command->add_option("--requests", request.requests, "Requests in all (default: BATCH)");
  if (phase != "profile") {
    CLI::Option* baseline =
        command->add_option("--baseline", options->baseline, "Tokens a second to compare with")
            ->check(NotNegative());
    command
        ->add_flag("--compare", options->compare,
                   "Compare with the BF16 GEMMs and attention of the same shapes alone, by PyTorch "
                   "(cuBLAS, cuDNN)")
        ->excludes(baseline);
  }
  AddTensorParallel(*command, request.tensor_parallel);
  command->add_flag("--eager", request.eager, "Decode steps op by op, not as a recorded graph");
  command->add_flag("--batch-invariant", request.batch_invariant,
                    "Sums of a row depend on its own sequence alone");
  AddLmHead(*command, request.lm_head);
  AddProducts(*command, request.products);
  options->common.AddTo(*command);
  command->footer(StrCat("Examples:\n  fireq bench ", phase,
                         " out --shape 4x100x50\n  fireq bench ", phase,
                         " --synthetic llama-3-8b --shape 16x1024x128\n"));
  command->callback([options] { RunBench(*options); });
}

}  // namespace

void AddBench(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure how fast a model serves; prints CSV");
  bench->require_subcommand(1);
  AddPhase(*bench, "prefill", "Prompts alone");
  AddPhase(*bench, "decode", "New tokens alone, from a context of INPUT on");
  AddPhase(*bench, "serve", "Requests through the engine, BATCH at a time");
  AddPhase(*bench, "profile", "Times of the ops of a prefill and of a decode step");
  AddKernelBenches(*bench);
  bench->footer(
      "Examples:\n  fireq bench decode --synthetic llama-3-8b --shape 1x1024x128 --shape "
      "256x1280x64\n  fireq bench gemm --tokens 16,4096 > gemm.csv\n");
}

}  // namespace fireq::app
