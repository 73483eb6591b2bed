// fireq: arguments to api/fireq.h, nothing else.
#include <csignal>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "command.h"

namespace {

constexpr const char* kFooter = R"(Exit status:
  0 success; 2 an argument is wrong; 3 unsupported; 4 a file is corrupt; 5 not found;
  6 input/output (disk full, permissions); 7 out of memory; 8 CUDA; 9 cancelled; 10 a bug

Examples:
  fireq chat smollm2-135m
  fireq quantize smollm2-135m -o smollm2-w4a8kv4 --calib some_text.txt
  fireq eval perplexity smollm2-w4a8kv4 --text other_text.txt --reference smollm2-135m
)";

int Fail(fireq::ErrorCode code, const std::string& message) {
  std::cerr << "fireq: " << fireq::ErrorCodeName(code) << ": " << message << "\n";
  return fireq::ExitCode(code);
}

// The parser takes an empty word for the number 0: `-n "$UNSET"` would be obeyed. The few texts
// that may be empty say themselves what they think of it.
void RefuseEmptyValues(CLI::App& app) {
  const CLI::Validator not_empty(
      [](const std::string& text) { return text.empty() ? "must not be empty" : ""; }, "");
  for (CLI::Option* option : app.get_options())
    if (!option->check_name("--prompt") && !option->check_name("--system") &&
        !option->check_name("--stop"))
      option->check(not_empty);
  for (CLI::App* command : app.get_subcommands({})) RefuseEmptyValues(*command);
}

// One line for what the parser says, and whose --help helps.
int FailOnArguments(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string name = app.get_name();
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().back();
    name += " " + command->get_name();
  }
  // The parser misses a command before it minds a word that is none.
  const std::vector<std::string> rest = command->remaining();
  const bool wants_command = command->get_require_subcommand_min() > 0;
  const std::string what =
      wants_command && !rest.empty()
          ? fireq::StrCat("there is no ", rest.front().starts_with('-') ? "option" : "command",
                          " '", name, " ", rest.front(), "'")
          : error.what();
  return Fail(fireq::ErrorCode::kInvalidArgument, what + " (see: " + name + " --help)");
}

// Errors of the arguments are answered here, all others are thrown.
int Run(int argc, char** argv) {
  // A file size limit (ulimit -f) is then an error like a full disk, not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app{"FireQ: 4-bit LLM inference (INT4 weights and KV cache, FP8 activations)", "fireq"};
  app.footer(kFooter);
  app.require_subcommand(1);
  app.set_version_flag("--version", FIREQ_VERSION);
  fireq::app::AddQuantize(app);
  fireq::app::AddEval(app);
  fireq::app::AddGenerate(app);
  fireq::app::AddChat(app);
  fireq::app::AddInspect(app);
  fireq::app::AddTokenize(app);
  fireq::app::AddRender(app);
  fireq::app::AddBench(app);
  RefuseEmptyValues(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() != 0) return FailOnArguments(app, e);
    app.exit(e);  // writes what --help or --version ask for
    fireq::app::PrintOut("");
    return 0;
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const fireq::Error& e) {
    return Fail(e.code(), e.what());
  } catch (const std::filesystem::filesystem_error& e) {
    return Fail(fireq::ErrorCode::kIo, e.what());
  } catch (const std::bad_alloc&) {
    return Fail(fireq::ErrorCode::kOutOfMemory, "host memory is exhausted");
  } catch (const std::exception& e) {
    return Fail(fireq::ErrorCode::kInternal, e.what());
  }
}
