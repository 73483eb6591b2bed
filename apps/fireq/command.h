// What the commands of `fireq` share: options every command has, progress, printing JSON.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "fireq/api/fireq.h"

namespace fireq::app {

// Options that every command has.
struct CommonOptions {
  int threads = 0;
  std::string device = "auto";
  bool json = false;

  void AddTo(CLI::App& command, bool with_json = true);
  // Reads the environment for the cache of fetched models: only the program does that.
  RuntimeOptions Runtime() const;
};

// Each adds its sub-command; the callback runs when it was chosen.
void AddQuantize(CLI::App& app);
void AddEval(CLI::App& app);
void AddEvalTasks(CLI::App& eval);  // `fireq eval tasks`
void AddEvalTrace(CLI::App& eval);  // `fireq eval trace`
void AddGenerate(CLI::App& app);
void AddChat(CLI::App& app);
void AddInspect(CLI::App& app);
void AddTokenize(CLI::App& app);
void AddRender(CLI::App& app);
void AddBench(CLI::App& app);
void AddKernelBenches(CLI::App& bench);  // called by AddBench

// A program or script of bench/ that lies in libexec/fireq. Throws kUnsupported if there is none.
std::filesystem::path FindBenchProgram(const std::string& name);

// --products: which of the two products of INT4 weights is computed.
void AddProducts(CLI::App& command, ProductsMode& products);

// --tensor-parallel: how many GPUs share the model.
void AddTensorParallel(CLI::App& command, int& ranks);

// --lm-head: as it is stored, or made INT4 on loading.
void AddLmHead(CLI::App& command, LmHead& lm_head);

// Of an option's value: by itself the parser takes -1 for 2^64 - 1 where a number has no sign.
CLI::Validator NotNegative();

// Text of MODEL for --help.
inline constexpr const char* kModelHelp =
    "Hugging Face directory, .gguf file, FireQ checkpoint, or the alias smollm2-135m";

// One line on stderr that is rewritten, only where stderr is a terminal; a plain line a tenth of
// the way elsewhere.
class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Update(const std::string& text, double fraction);

 private:
  bool terminal_;
  bool open_ = false;
  int last_tenth_ = -1;
  double start_seconds_;
};

// Writes text to stdout and checks that it arrived (a full disk behind a redirection is an error).
void PrintOut(const std::string& text);
void PrintJson(const nlohmann::ordered_json& value);

// The whole of a file; throws kNotFound or kIo naming it. "-" is standard input.
std::string ReadWhole(const std::string& path);

}  // namespace fireq::app
