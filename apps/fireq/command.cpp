#include "command.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <vector>

namespace fireq::app {

void CommonOptions::AddTo(CLI::App& command, bool with_json) {
  command.add_option("--threads", threads, "Threads to use (default: all)")
      ->check(CLI::Range(1, 1024));
  command.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  if (with_json)
    command.add_flag("--json", json, "Print one JSON object (bench: one a row) and nothing else");
}

RuntimeOptions CommonOptions::Runtime() const {
  RuntimeOptions out;
  out.num_threads = threads;
  out.device = device;
  out.say = [](const std::string& line) { std::cerr << line << std::endl; };
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache != nullptr && *cache != '\0') {
    out.cache_dir = std::string(cache) + "/fireq";
  } else if (home != nullptr && *home != '\0') {
    out.cache_dir = std::string(home) + "/.cache/fireq";
  }
  return out;
}

namespace {

// An option whose value is one of a few words, named in --help and in the message for another.
template <class E>
void AddChoice(CLI::App& command, const std::string& option, E& value,
               const std::map<std::string, E>& choices, const std::string& help) {
  std::vector<std::string> words;
  std::string shown;
  for (const auto& choice : choices) {
    words.push_back(choice.first);
    shown += (shown.empty() ? "" : "|") + choice.first;
  }
  const auto store = [&value, choices](const std::string& word) { value = choices.at(word); };
  command.add_option_function<std::string>(option, store, help)
      ->transform(CLI::IsMember(words, CLI::ignore_case).description(""))
      ->type_name(shown);
}

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void AddProducts(CLI::App& command, ProductsMode& products) {
  AddChoice(command, "--products", products,
            {{"served", ProductsMode::kServed},
             {"table", ProductsMode::kTable},
             {"exact", ProductsMode::kExact}},
            "As served, by tokens of a step (default); or always that product");
}

void AddTensorParallel(CLI::App& command, int& ranks) {
  command
      .add_option("--tensor-parallel", ranks,
                  "GPUs that share the model, from number 0 on (needs NCCL)")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

void AddLmHead(CLI::App& command, LmHead& lm_head) {
  AddChoice(command, "--lm-head", lm_head, {{"stored", LmHead::kAsStored}, {"int4", LmHead::kInt4}},
            "As the model has it (default), or made on loading a quantised checkpoint");
}

CLI::Validator NotNegative() {
  const auto check = [](const std::string& text) {
    return text.starts_with('-') ? "must not be negative, got " + text : std::string();
  };
  return CLI::Validator(check, "");
}

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1), start_seconds_(NowSeconds()) {}

Progress::~Progress() {
  if (open_) std::fputc('\n', stderr);
}

void Progress::Update(const std::string& text, double fraction) {
  const double elapsed = NowSeconds() - start_seconds_;
  char line[256];
  if (fraction > 0.02) {
    std::snprintf(line, sizeof line, "%3.0f %%  %s  (%.0f s, %.0f s left)", 100.0 * fraction,
                  text.c_str(), elapsed, elapsed * (1.0 - fraction) / fraction);
  } else {
    std::snprintf(line, sizeof line, "%3.0f %%  %s  (%.0f s)", 100.0 * fraction, text.c_str(),
                  elapsed);
  }
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", line);
    open_ = true;
  } else if (const int tenth = static_cast<int>(fraction * 10); tenth != last_tenth_) {
    last_tenth_ = tenth;
    std::fprintf(stderr, "%s\n", line);
  }
  std::fflush(stderr);
}

void PrintOut(const std::string& text) {
  std::cout << text << std::flush;
  FIREQ_CHECK(std::cout.good(), kIo, "cannot write to standard output (disk full?)");
}

void PrintJson(const nlohmann::ordered_json& value) {
  PrintOut(value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

std::string ReadWhole(const std::string& path) {
  if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  FIREQ_CHECK(!std::filesystem::is_directory(path), kInvalidArgument, path,
              " is a directory, not a text");
  std::ifstream file(path, std::ios::binary);
  const int error = errno;
  FIREQ_CHECK(file.good() || error == ENOENT, kIo, "cannot open ", path, ": ",
              std::strerror(error));
  FIREQ_CHECK(file.good(), kNotFound, "cannot open ", path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  FIREQ_CHECK(!file.bad(), kIo, "cannot read ", path);
  return text;
}

}  // namespace fireq::app
