// Log-likelihoods of continuations, many at a time; what continuations share is run once.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "fireq/base/thread_pool.h"
#include "fireq/model/kv_cache.h"
#include "fireq/model/model.h"

namespace fireq {

// A text of which the last `scored` tokens are the continuation; 1 <= scored < ids.size().
struct Continuation {
  std::vector<int32_t> ids;
  int64_t scored = 0;
};

// Continuations that may share their first tokens.
using ContinuationGroup = std::vector<Continuation>;

struct ContinuationScore {
  double log_likelihood = 0.0;  // natural, summed over the scored tokens
  bool greedy = true;           // every scored token is the model's first choice
};

// Runs groups batch by batch: first the prefixes that the continuations of a group share, one
// sequence a group, then all continuations behind them. A prefix's full pages are read by all its
// continuations; each gets a copy of the page that the prefix leaves half filled. Not thread-safe;
// `backend` and `model` outlive it.
class ContinuationScorer {
 public:
  // At most `max_context` tokens are run for a continuation: longer ones lose their first tokens.
  // `num_threads` are for the sums over logits, beside the backend's own; 0: one a hardware thread.
  ContinuationScorer(Backend& backend, const Model& model, int64_t max_context, Products products,
                     int num_threads = 0);

  // One entry a group and continuation, in order. `progress` is called with the number of groups
  // done and may throw to stop. Throws kInvalidArgument for ids outside the vocabulary and for a
  // continuation that alone exceeds the context, kInternal if a log-likelihood is not finite.
  using GroupScores = std::vector<ContinuationScore>;
  std::vector<GroupScores> Score(std::span<const ContinuationGroup> groups,
                                 const std::function<void(int64_t groups_done)>& progress = {});

 private:
  struct Branch;
  struct Plan;
  struct Sequence;
  struct Row;

  Plan PlanGroup(const ContinuationGroup& group, GroupScores& scores) const;
  void RunBatch(std::span<const Plan> batch);
  void RunSequences(std::span<const Sequence> sequences);
  void ScoreRows(const Tensor& hidden, std::span<const Row> rows);
  void CopyPage(int32_t from, int32_t to);

  Backend& backend_;
  const Model& model_;
  int64_t max_context_;
  ForwardContext context_;
  ForwardBuffers buffers_;
  std::optional<KvCache> cache_;
  ThreadPool pool_;
};

}  // namespace fireq
