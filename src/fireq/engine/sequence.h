// One request inside the engine, from acceptance to its one Finish. Engine thread only, but for the
// cancellation flag.
#pragma once

#include <atomic>
#include <memory>

#include "fireq/engine/elapsed.h"
#include "fireq/engine/kv_pages.h"
#include "fireq/engine/messages.h"
#include "fireq/engine/prefix_cache.h"
#include "fireq/engine/scheduler.h"

namespace fireq {

// What Submit hands to the engine thread.
struct Submission {
  RequestId id = 0;
  Request request;
  EventSink sink;
  std::shared_ptr<std::atomic<bool>> cancelled;
  EngineClock::time_point submitted;
};

// Waiting: holds no pages and nothing is computed. Running: the rest. Preempt() goes back.
class Sequence {
 public:
  Sequence(Submission submission, PagePool& pool)
      : ids(submission.request.prompt),
        num_known(static_cast<int64_t>(ids.size())),
        lease(pool),
        submission_(std::move(submission)) {}

  RequestId id() const { return submission_.id; }
  const Request& request() const { return submission_.request; }
  const EventSink& sink() const { return submission_.sink; }
  EngineClock::time_point submitted() const { return submission_.submitted; }
  bool cancelled() const { return submission_.cancelled->load(std::memory_order_relaxed); }
  void Cancel() { submission_.cancelled->store(true, std::memory_order_relaxed); }

  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_prompt() const { return static_cast<int64_t>(request().prompt.size()); }
  int64_t num_output() const { return num_tokens() - num_prompt(); }
  int64_t num_known_output() const { return num_known - num_prompt(); }

  SequenceView View() const {
    return {num_tokens(), num_computed, lease.size(), lease.num_exclusive()};
  }

  void Preempt() {
    lease.Release();
    cursor = {};
    num_computed = 0;
  }
  // After its Finish: steps in flight may still hold it.
  bool ended() const { return ended_; }
  void End() {
    lease.Release();
    ended_ = true;
  }

  std::vector<int32_t> ids;  // prompt, then output; at the end stand-ins of tokens in flight
  int64_t num_known;         // of ids, in front of the stand-ins
  int64_t num_computed = 0;  // of ids, in the cache
  KvLease lease;
  PrefixCache::Cursor cursor;  // how far `lease` is in the prefix cache
  int64_t num_cached = -1;     // of the prompt, found at first admission; -1: not admitted yet
  int64_t first_token_us = 0;

 private:
  Submission submission_;
  bool ended_ = false;
};

}  // namespace fireq
