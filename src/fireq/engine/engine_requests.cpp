// How requests get into the engine and how they leave it.
#include <algorithm>
#include <utility>

#include "fireq/engine/engine.h"

namespace fireq {

Engine::Engine(Backend& backend, const Model& model, const EngineOptions& options,
               std::unique_ptr<TokenSampler> sampler)
    : model_(model),
      options_(options),
      runs_ahead_(options.run_ahead == RunAhead::kAlways ||
                  (options.run_ahead == RunAhead::kWhereItGains && backend.RunsAhead())),
      runner_(backend, model, options.runner,
              sampler ? std::move(sampler) : std::make_unique<BackendTokenSampler>(backend)),
      limits_{options.runner.max_tokens, options.runner.max_sequences},
      max_sequence_tokens_(
          std::min(runner_.max_context(), runner_.num_pages() * int64_t{kTokensPerPage})),
      pool_(runner_.num_pages()),
      cache_(pool_),
      queue_(static_cast<size_t>(std::max<int64_t>(options.queue_capacity, 1))) {
  now_.cache_bytes = runner_.cache_bytes();
  now_.working_bytes = runner_.working_bytes();
  Publish();
}

Engine::~Engine() { EndAll({FinishReason::kCancelled}); }

std::optional<RequestHandle> Engine::Submit(Request request, EventSink sink) {
  CheckRequest(request);
  Submission submission{next_id_.fetch_add(1), std::move(request), std::move(sink),
                        std::make_shared<std::atomic<bool>>(false), EngineClock::now()};
  RequestHandle handle(submission.id, submission.cancelled);
  if (!queue_.TryPush(std::move(submission))) return std::nullopt;
  return handle;
}

void Engine::CheckRequest(const Request& request) const {
  Validate(request.sampling);
  const int64_t length = static_cast<int64_t>(request.prompt.size());
  FIREQ_CHECK(length > 0, kInvalidArgument, "the prompt has no tokens");
  FIREQ_CHECK(length <= max_sequence_tokens_, kInvalidArgument, "a prompt of ", length,
              " tokens exceeds the limit of ", max_sequence_tokens_);
  FIREQ_CHECK(request.max_new_tokens > 0, kInvalidArgument,
              "number of new tokens must be >= 1, got ", request.max_new_tokens);
  for (size_t i = 0; i < request.prompt.size(); ++i)
    FIREQ_CHECK(request.prompt[i] >= 0 && request.prompt[i] < model_.config.vocab_size,
                kInvalidArgument, "token id ", request.prompt[i], " at place ", i,
                " is outside the vocabulary of ", model_.config.vocab_size);
}

bool Engine::Step() {
  try {
    return StepOnce();
  } catch (const std::exception& error) {
    EndAll({FinishReason::kError, error.what()});
    return false;
  }
}

void Engine::Run(const std::stop_token& stop) {
  const std::stop_callback wake(stop, [this] { queue_.Close(); });
  while (!stop.stop_requested())
    if (!Step() && !queue_.WaitForItem()) break;
  EndAll({FinishReason::kCancelled});
}

// What does not fit in line stays in the queue, which is bounded.
void Engine::Receive() {
  while (static_cast<int64_t>(waiting_.size()) < options_.queue_capacity) {
    std::optional<Submission> submission = queue_.TryPop();
    if (!submission) return;
    waiting_.push_back(std::make_shared<Sequence>(std::move(*submission), pool_));
    ++now_.num_accepted;
  }
}

void Engine::Emit(Sequence& sequence, std::optional<TokenChoice> token,
                  std::optional<Finish> finish) {
  TokenEvent event{sequence.id(), std::move(token), std::move(finish)};
  if (event.token && sequence.first_token_us == 0)
    sequence.first_token_us = ElapsedUs(sequence.submitted());
  if (event.finish) {
    event.finish->prompt_tokens = sequence.num_prompt();
    event.finish->cached_tokens = std::max<int64_t>(sequence.num_cached, 0);
    event.finish->output_tokens = sequence.num_known_output();
    event.finish->first_token_us = sequence.first_token_us;
    event.finish->total_us = ElapsedUs(sequence.submitted());
    ++now_.num_finished[static_cast<size_t>(event.finish->reason)];
  }
  try {
    sequence.sink()(event);
  } catch (...) {
    sequence.Cancel();
  }
  if (event.finish) sequence.End();
}

// Nothing gets in any more; what is in, in the queue or further, ends like `finish`.
void Engine::EndAll(const Finish& finish) {
  queue_.Close();
  while (std::optional<Submission> submission = queue_.TryPop()) {
    waiting_.push_back(std::make_shared<Sequence>(std::move(*submission), pool_));
    ++now_.num_accepted;
  }
  for (const SequencePtr& sequence : running_)
    if (!sequence->ended()) Emit(*sequence, {}, finish);
  for (const SequencePtr& sequence : waiting_)
    if (!sequence->ended()) Emit(*sequence, {}, finish);
  running_.clear();
  waiting_.clear();
  flight_.reset();
  Publish();
}

void Engine::Publish() {
  now_.num_running = static_cast<int64_t>(running_.size());
  now_.num_waiting = static_cast<int64_t>(waiting_.size());
  now_.num_pages = pool_.num_pages();
  now_.num_pages_idle = pool_.num_idle();
  now_.num_pages_in_use = pool_.num_pages() - pool_.num_available();
  const std::lock_guard lock(metrics_mutex_);
  published_ = now_;
}

EngineMetrics Engine::metrics() const {
  const std::lock_guard lock(metrics_mutex_);
  return published_;
}

}  // namespace fireq
