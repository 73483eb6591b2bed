// Serving many requests at once: continuous batching over a paged cache.
//
// One thread steps the engine (Run, or Step by hand); any thread submits and cancels. Every
// accepted request ends in exactly one Finish. A step that throws (a device error, a bug) ends
// every open request as kError, and the engine takes no more.
//
// On a backend that runs ahead a step is started before the tokens of the one in front of it are
// read: they stay on the device, and stand-ins stand for them in the plan. The host's work then
// takes no time of the device's. A sequence that turns out to have ended with the step in front is
// run once more for nothing.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <vector>

#include "fireq/base/queue.h"
#include "fireq/engine/messages.h"
#include "fireq/engine/metrics.h"
#include "fireq/engine/runner.h"
#include "fireq/engine/scheduler.h"
#include "fireq/engine/sequence.h"

namespace fireq {

enum class RunAhead : uint8_t { kWhereItGains, kAlways, kNever };

struct EngineOptions {
  RunnerOptions runner;
  RunAhead run_ahead = RunAhead::kWhereItGains;
  bool prefix_cache = true;
  int64_t queue_capacity = 1024;  // requests accepted and not yet seen by the engine's thread
};

// Any thread may cancel, as often as it likes; copies are the same request.
class RequestHandle {
 public:
  RequestHandle(RequestId id, std::shared_ptr<std::atomic<bool>> cancelled)
      : id_(id), cancelled_(std::move(cancelled)) {}
  RequestId id() const { return id_; }
  // The request ends as kCancelled before the next step, unless it has ended already.
  void Cancel() const { cancelled_->store(true, std::memory_order_relaxed); }

 private:
  RequestId id_;
  std::shared_ptr<std::atomic<bool>> cancelled_;
};

class Engine {
 public:
  // `backend` and `model` outlive the engine. Without a `sampler` the backend chooses the tokens.
  // Throws as Runner does.
  Engine(Backend& backend, const Model& model, const EngineOptions& options,
         std::unique_ptr<TokenSampler> sampler = nullptr);
  // Ends what is open as kCancelled. The engine's thread has stopped.
  ~Engine();

  // Any thread. Nothing if the queue is full or the engine has stopped. Throws kInvalidArgument for
  // a request that can never run.
  std::optional<RequestHandle> Submit(Request request, EventSink sink);

  // One step of everything that runs; false if there is nothing to do. Engine thread.
  bool Step();
  // Steps until `stop` is requested, sleeping while there is nothing to do; ends what is open then.
  void Run(const std::stop_token& stop);

  // Tokens that a sequence can have: the context, or the whole cache if that is less.
  int64_t max_sequence_tokens() const { return max_sequence_tokens_; }
  const Runner& runner() const { return runner_; }
  EngineMetrics metrics() const;  // any thread

 private:
  using SequencePtr = std::shared_ptr<Sequence>;

  // A step in flight, and whom it is for.
  struct Flight {
    struct Row {
      SequencePtr sequence;
      int64_t num_computed;  // behind the step
      bool samples;
    };
    std::vector<Row> rows;
    StepInFlight step;
  };

  bool StepOnce();
  void Receive();
  void EndCancelled();
  void Admit();
  BatchPlan MakePlan() const;
  // Whether `plan` cannot be run before the tokens in flight are known.
  bool WaitsForTokens(const BatchPlan& plan) const;
  void Preempt(const BatchPlan& plan);
  void Reserve(const BatchPlan& plan);
  Flight Start(const BatchPlan& plan);
  // Waits for the tokens of `flight` and tells whose they are.
  void Land(std::optional<Flight> flight);

  bool Samples(const BatchPlan::Entry& entry) const;
  const SequencePtr& At(const BatchPlan::Entry& entry) const {
    return running_[static_cast<size_t>(entry.sequence)];
  }
  // Whether the token in flight is the last that `sequence` may have.
  bool HasItsLast(const Sequence& sequence) const;
  std::vector<SequenceView> Views() const;
  void CheckRequest(const Request& request) const;
  void AddToken(const Flight::Row& row, TokenChoice choice);
  void EraseEnded();
  // Tells the sink; a finish ends `sequence`, whose pages are free then. A step in flight that
  // still writes to them does so before any later one.
  void Emit(Sequence& sequence, std::optional<TokenChoice> token, std::optional<Finish> finish);
  void EndAll(const Finish& finish);
  void Publish();

  const Model& model_;
  const EngineOptions options_;
  const bool runs_ahead_;
  Runner runner_;
  const SchedulerLimits limits_;
  const int64_t max_sequence_tokens_;
  PagePool pool_;
  PrefixCache cache_;
  std::deque<SequencePtr> waiting_;   // by arrival; the preempted are in front
  std::vector<SequencePtr> running_;  // by arrival
  std::optional<Flight> flight_;      // started and not landed
  EngineMetrics now_;

  BoundedQueue<Submission> queue_;
  std::atomic<RequestId> next_id_{1};
  mutable std::mutex metrics_mutex_;
  EngineMetrics published_;
};

}  // namespace fireq
