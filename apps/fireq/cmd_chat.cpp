#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <vector>

#include "generation_options.h"

namespace fireq::app {
namespace {

struct ChatOptions : GenerationOptions {
  std::string system;
};

// While it lives the first Ctrl-C ends the answer; a second one, and any later, the program.
class AnswerInterrupt {
 public:
  AnswerInterrupt() {
    Flag() = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { Flag() = 1; };
    action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &before_);
  }
  ~AnswerInterrupt() { sigaction(SIGINT, &before_, nullptr); }
  AnswerInterrupt(const AnswerInterrupt&) = delete;
  AnswerInterrupt& operator=(const AnswerInterrupt&) = delete;
  bool happened() const { return Flag() != 0; }

 private:
  // A handler knows no object.
  static volatile std::sig_atomic_t& Flag() {
    static volatile std::sig_atomic_t flag = 0;
    return flag;
  }

  struct sigaction before_ {};
};

class Chat {
 public:
  Chat(LanguageModel& model, const ChatOptions& options) : model_(model), options_(options) {
    Reset();
  }

  void Reset() {
    messages_ = nlohmann::json::array();
    if (!options_.system.empty()) Say("system", options_.system);
  }

  void Answer(const std::string& message) {
    Say("user", message);
    GenerateRequest request = options_.request;
    request.prompt_ids = Prompt();
    const AnswerInterrupt interrupt;
    const GenerateResult result = model_.Generate(request, [&](std::string_view text) {
      PrintOut(std::string(text));
      return !interrupt.happened();
    });
    PrintOut("\n");
    Say("assistant", result.text);
  }

 private:
  void Say(const char* role, const std::string& content) {
    messages_.push_back({{"role", role}, {"content", content}});
  }

  // The conversation without its oldest messages, if it leaves no room for an answer otherwise.
  std::vector<int32_t> Prompt() {
    const auto ids = [&] {
      // The template writes all special tokens that it wants.
      return model_.Tokenize(model_.RenderChat(messages_.dump(
                                 -1, ' ', false, nlohmann::json::error_handler_t::replace)),
                             /*add_special=*/false, /*parse_special=*/true);
    };
    std::vector<int32_t> prompt = ids();
    const size_t first = options_.system.empty() ? 0 : 1;
    bool told = false;
    while (static_cast<int64_t>(prompt.size()) >= model_.max_context() &&
           messages_.size() > first + 2) {
      if (!std::exchange(told, true))
        std::cerr << "(the oldest messages are left out: the context is " << model_.max_context()
                  << " tokens)\n";
      const auto oldest = messages_.begin() + static_cast<std::ptrdiff_t>(first);
      messages_.erase(oldest, oldest + 2);  // a message and its answer
      prompt = ids();
    }
    return prompt;
  }

  LanguageModel& model_;
  const ChatOptions& options_;
  nlohmann::json messages_;
};

void RunChat(const ChatOptions& options) {
  LanguageModel model = options.Load();
  Chat chat(model, options);
  const bool terminal = isatty(STDIN_FILENO) == 1;
  const auto read = [&](std::string& line) {
    if (terminal) std::cerr << "> " << std::flush;
    return static_cast<bool>(std::getline(std::cin, line));
  };
  if (terminal)
    std::cerr << "Type a message; /reset starts over, Ctrl-C ends an answer, /exit or Ctrl-D "
                 "leaves.\n";
  std::string line;
  while (read(line) && line != "/exit") {
    if (line == "/reset") {
      chat.Reset();
    } else if (!line.empty()) {
      chat.Answer(line);
    }
  }
}

}  // namespace

void AddChat(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("chat", "Talk with a model, one message a line of standard input");
  auto options = std::make_shared<ChatOptions>();
  options->request.temperature = 0.7f;
  options->request.top_p = 0.95f;
  options->request.max_new_tokens = 512;
  command->add_option("MODEL", options->model, kModelHelp)->required();
  command->add_option("--system", options->system, "System message");
  command
      ->add_option("-n,--max-new-tokens", options->request.max_new_tokens,
                   "Tokens an answer at most")
      ->capture_default_str();
  AddSampling(*command, options->request);
  AddTensorParallel(*command, options->tensor_parallel);
  options->common.AddTo(*command, /*with_json=*/false);
  command->footer(
      "Examples:\n  fireq chat smollm2-135m\n  echo 'What is 2 + 2?' | fireq chat out "
      "--temperature 0\n");
  command->callback([options] { RunChat(*options); });
}

}  // namespace fireq::app
