#include <algorithm>
#include <filesystem>
#include <utility>

#include "fireq/api/fireq.h"
#include "fireq/api/lm_head.h"
#include "fireq/api/products.h"
#include "fireq/api/rank_team.h"
#include "fireq/api/text_tools.h"
#include "fireq/api/wiring.h"
#include "fireq/engine/generate.h"
#include "fireq/eval/perplexity.h"
#include "fireq/eval/tasks.h"
#include "fireq/io/json.h"
#include "fireq/model/model.h"
#include "fireq/text/detokenizer.h"

namespace fireq {
namespace {

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopId:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kContextFull:
      return "context";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "?";
}

double Rate(int64_t count, double seconds) {
  return count > 0 && seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

std::string Render(const TextTools& tools, const std::string& messages_json,
                   bool add_generation_prompt) {
  FIREQ_CHECK(tools.chat_template.has_value(), kNotFound,
              "the model has no chat template: use generate, or an instruction-tuned model");
  // The checks of ParseJson first; keys keep their order for templates that print JSON.
  ParseJson(messages_json, "messages");
  auto messages = nlohmann::ordered_json::parse(messages_json);
  text::RenderOptions options;
  options.add_generation_prompt = add_generation_prompt;
  if (messages.is_object()) {
    FIREQ_CHECK(messages.contains("messages"), kInvalidArgument,
                "messages: expected a list, or an object that has a list \"messages\"");
    nlohmann::ordered_json list = std::move(messages["messages"]);
    messages.erase("messages");
    options.extra = std::exchange(messages, std::move(list));
  }
  return tools.chat_template->Render(messages, options);
}

}  // namespace

struct LanguageModel::Impl {
  int num_threads;
  std::unique_ptr<Backend> backend;
  Model model;
  TextTools text;
  SessionOptions session_options;
  std::unique_ptr<RankTeam> team;  // the other ranks; null: there are none
  std::optional<Session> session;  // kept between calls: a chat's next turn continues it

  Session& GetSession() {
    if (!session) session.emplace(*backend, model, session_options);
    return *session;
  }
};

LanguageModel::LanguageModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;
LanguageModel::~LanguageModel() = default;

LanguageModel LanguageModel::Load(const std::string& model, const LoadOptions& options) {
  const std::filesystem::path path = ResolveModel(model, options.runtime);
  FIREQ_CHECK(options.tensor_parallel >= 1 && options.tensor_parallel <= 64, kInvalidArgument,
              options.tensor_parallel, " ranks: expected 1 to 64");
  const Share share{0, options.tensor_parallel};
  auto backend =
      share.size > 1 ? MakeRankBackend(options.runtime, share) : MakeBackend(options.runtime, path);
  Model loaded = LoadModel(*backend, path,
                           MakeHead(options.lm_head, path, options.runtime.num_threads), share);
  SessionOptions session;
  session.max_context = options.max_context;
  session.products = ToProducts(options.products);
  std::unique_ptr<RankTeam> team;
  if (share.size > 1) {
    team = std::make_unique<RankTeam>(options, path, session, *backend);
    loaded.ranks = team->first();
    session.followers = team.get();
  }
  return LanguageModel(std::make_unique<Impl>(Impl{options.runtime.num_threads,
                                                   std::move(backend),
                                                   std::move(loaded),
                                                   LoadTextTools(path),
                                                   session,
                                                   std::move(team),
                                                   {}}));
}

int64_t LanguageModel::max_context() const {
  return impl_->session_options.max_context > 0 ? impl_->session_options.max_context
                                                : impl_->model.config.max_context;
}

GenerateResult LanguageModel::Generate(const GenerateRequest& request,
                                       const std::function<bool(std::string_view)>& on_text) {
  const text::Tokenizer& tokenizer = impl_->text.tokenizer;
  GenerateResult out;
  out.prompt_ids = request.prompt_ids;
  if (out.prompt_ids.empty())
    out.prompt_ids = Tokenize(request.prompt, request.add_special, request.parse_special);

  GenerateParams params;
  params.max_new_tokens = request.max_new_tokens;
  params.sampling = {request.temperature, request.top_k, request.top_p,
                     request.min_p,       request.seed,  request.repetition_penalty};
  if (!request.ignore_eos) params.stop_ids = impl_->model.config.eos_ids;

  text::Detokenizer detokenizer(tokenizer, {.skip_special = true, .stops = request.stop});
  const auto emit = [&](const std::string& piece) {
    out.text += piece;
    return piece.empty() || !on_text || on_text(piece);
  };
  const Generation generation = fireq::Generate(
      impl_->GetSession(), out.prompt_ids, params,
      [&](int32_t id) { return emit(detokenizer.Add(id)) && !detokenizer.stopped(); });
  emit(detokenizer.Flush());

  out.ids = generation.ids;
  out.finish_reason = detokenizer.stopped() ? "stop" : Name(generation.reason);
  out.prefill_tokens_per_second = Rate(generation.prefill_tokens, generation.prefill_seconds);
  out.decode_tokens_per_second =
      Rate(static_cast<int64_t>(generation.ids.size()) - 1, generation.decode_seconds);
  return out;
}

std::vector<int32_t> LanguageModel::Tokenize(std::string_view text, bool add_special,
                                             bool parse_special) const {
  return impl_->text.tokenizer.Encode(text,
                                      {.add_special = add_special, .parse_special = parse_special});
}

std::string LanguageModel::RenderChat(const std::string& messages_json,
                                      bool add_generation_prompt) const {
  return Render(impl_->text, messages_json, add_generation_prompt);
}

PerplexityReport LanguageModel::EvaluatePerplexity(const PerplexityRequest& request,
                                                   LanguageModel* reference) {
  const std::vector<int32_t> ids =
      impl_->text.tokenizer.Encode(request.text, {.add_special = true, .parse_special = true});
  PerplexityOptions options;
  options.context = request.context;
  options.max_tokens = request.max_tokens;
  options.products = impl_->session_options.products;
  options.chunk = request.chunk;
  options.num_threads = impl_->num_threads;
  options.progress = request.progress;
  const auto loaded = [](const Impl& impl) {
    return fireq::LoadedModel{impl.backend.get(), &impl.model};
  };
  if (impl_->team) {
    PerplexityOptions quiet = options;
    quiet.progress = {};
    impl_->team->Tell([ids, quiet](Backend& backend, const Model& model) {
      fireq::EvaluatePerplexity({&backend, &model}, ids, quiet, {});
    });
  }
  const PerplexityResult result = [&] {
    try {
      return fireq::EvaluatePerplexity(
          loaded(*impl_), ids, options,
          reference != nullptr ? loaded(*reference->impl_) : fireq::LoadedModel{});
    } catch (...) {
      if (impl_->team) impl_->team->Fail();
      throw;
    }
  }();
  PerplexityReport out{result.perplexity, result.perplexity_stderr, result.tokens,
                       result.seconds,    result.tokens_per_second, {}};
  if (result.distance)
    out.distance = {result.distance->kl_mean,
                    result.distance->kl_stderr,
                    result.distance->kl_p99,
                    result.distance->top1_agreement,
                    result.distance->top1_stderr,
                    result.distance->reference_perplexity,
                    result.distance->reference_perplexity_stderr};
  return out;
}

std::vector<TaskScore> LanguageModel::EvaluateTasks(const TasksRequest& request) {
  FIREQ_CHECK(!impl_->team, kUnsupported, "tasks on a model that several ranks share");
  std::vector<Task> tasks;
  for (const std::string& name : request.tasks)
    tasks.push_back(LoadTask(request.data_dir, name, request.limit));

  std::vector<TaskScore> scores;
  for (const Task& task : tasks) {
    TaskOptions options;
    options.max_context = max_context();
    options.products = impl_->session_options.products;
    options.num_threads = impl_->num_threads;
    options.progress = [&](int64_t done, int64_t total) {
      if (request.progress) request.progress(task.name, done, total);
    };
    // The texts of a task are a stranger's: what looks like a control token is its letters.
    const TaskResult result = EvaluateTask(
        *impl_->backend, impl_->model, task,
        [&](std::string_view text) {
          return impl_->text.tokenizer.Encode(text, {.add_special = true, .parse_special = false});
        },
        options);
    scores.push_back({task.name, result.acc, result.acc_norm, result.acc_stderr, result.items});
  }
  return scores;
}

std::vector<int32_t> Tokenize(const std::string& model, std::string_view text, bool add_special,
                              const RuntimeOptions& options) {
  const TextTools tools = LoadTextTools(ResolveModel(model, options));
  return tools.tokenizer.Encode(text, {.add_special = add_special, .parse_special = true});
}

std::string RenderChat(const std::string& model, const std::string& messages_json,
                       bool add_generation_prompt, const RuntimeOptions& options) {
  return Render(LoadTextTools(ResolveModel(model, options)), messages_json, add_generation_prompt);
}

}  // namespace fireq
