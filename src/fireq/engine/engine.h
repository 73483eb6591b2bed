// Serving many requests at once: continuous batching over a paged cache.
//
// One thread steps the engine (Run, or Step by hand); any thread submits and cancels. Every
// accepted request ends in exactly one Finish. A step that throws (a device error, a bug) ends
// every open request as kError, and the engine takes no more.
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

struct EngineOptions {
  RunnerOptions runner;
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
  void Run(std::stop_token stop);

  // Tokens that a sequence can have: the context, or the whole cache if that is less.
  int64_t max_sequence_tokens() const { return max_sequence_tokens_; }
  const Runner& runner() const { return runner_; }
  EngineMetrics metrics() const;  // any thread

 private:
  using SequencePtr = std::unique_ptr<Sequence>;

  bool StepOnce();
  void Receive();
  void EndCancelled();
  void Admit();
  void Preempt(const BatchPlan& plan);
  void Reserve(const BatchPlan& plan);
  std::vector<TokenChoice> RunPlan(const BatchPlan& plan);
  void Commit(const BatchPlan& plan, std::vector<TokenChoice> choices);

  bool Samples(const BatchPlan::Entry& entry) const;
  Sequence& At(const BatchPlan::Entry& entry) { return *running_[EntryIndex(entry)]; }
  static size_t EntryIndex(const BatchPlan::Entry& entry) {
    return static_cast<size_t>(entry.sequence);
  }
  std::vector<SequenceView> Views() const;
  void CheckRequest(const Request& request) const;
  void AddToken(SequencePtr& sequence, TokenChoice choice);
  // Tells the sink; a finish gives the pages back and empties `sequence`.
  void Emit(SequencePtr& sequence, std::optional<TokenChoice> token, std::optional<Finish> finish);
  void EndAll(const Finish& finish);
  void Publish();

  const Model& model_;
  const EngineOptions options_;
  Runner runner_;
  const SchedulerLimits limits_;
  const int64_t max_sequence_tokens_;
  PagePool pool_;
  PrefixCache cache_;
  std::deque<SequencePtr> waiting_;   // by arrival; the preempted are in front
  std::vector<SequencePtr> running_;  // by arrival
  EngineMetrics now_;

  BoundedQueue<Submission> queue_;
  std::atomic<RequestId> next_id_{1};
  mutable std::mutex metrics_mutex_;
  EngineMetrics published_;
};

}  // namespace fireq
