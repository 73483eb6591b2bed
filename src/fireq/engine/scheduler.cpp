#include "fireq/engine/scheduler.h"

#include <algorithm>

#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq {
namespace {

bool Decodes(const SequenceView& s) { return s.num_tokens - s.num_computed == 1; }

// One plan in the making.
class Planner {
 public:
  Planner(const SchedulerLimits& limits, std::span<const SequenceView> running, int64_t available)
      : running_(running),
        granted_(running.size(), 0),
        tokens_left_(limits.max_tokens),
        pages_left_(available),
        alive_(static_cast<int64_t>(running.size())) {}

  BatchPlan Make() {
    for (int64_t i = 0; i < alive_ && tokens_left_ > 0; ++i)
      if (Decodes(At(i))) GrantDecode(i);
    for (int64_t i = 0; i < alive_ && tokens_left_ > 0; ++i)
      if (!Decodes(At(i))) GrantChunk(i);
    BatchPlan plan;
    for (int64_t i = 0; i < alive_; ++i)
      if (const int64_t tokens = granted_[static_cast<size_t>(i)]; tokens > 0)
        plan.entries.push_back({i, tokens});
    // Nobody can move: prompts alone, which take only free pages, hold them all.
    if (plan.entries.empty() && preempted_.empty() && alive_ > 1) PreemptYoungest();
    plan.preempt = std::move(preempted_);
    return plan;
  }

 private:
  const SequenceView& At(int64_t i) const { return running_[static_cast<size_t>(i)]; }

  void Grant(int64_t i, int64_t tokens, int64_t pages) {
    granted_[static_cast<size_t>(i)] = tokens;
    tokens_left_ -= tokens;
    pages_left_ -= pages;
  }

  void GrantDecode(int64_t i) {
    const int64_t pages = PagesFor(At(i).num_tokens) - At(i).num_pages;
    while (pages > pages_left_ && alive_ > 1 && i < alive_) PreemptYoungest();
    if (i < alive_ && pages <= pages_left_) Grant(i, 1, pages);
  }

  void GrantChunk(int64_t i) {
    const SequenceView& s = At(i);
    const int64_t room = (s.num_pages + pages_left_) * kTokensPerPage - s.num_computed;
    const int64_t tokens = std::min({s.num_tokens - s.num_computed, tokens_left_, room});
    if (tokens <= 0) return;
    Grant(i, tokens, std::max<int64_t>(0, PagesFor(s.num_computed + tokens) - s.num_pages));
  }

  // Decode goes in order, so the youngest has been granted nothing yet when it has to go.
  void PreemptYoungest() {
    --alive_;
    pages_left_ += At(alive_).exclusive_pages;
    preempted_.push_back(alive_);
  }

  std::span<const SequenceView> running_;
  std::vector<int64_t> granted_;  // tokens, by sequence
  std::vector<int64_t> preempted_;
  int64_t tokens_left_;
  int64_t pages_left_;
  int64_t alive_;  // running_[alive_] and younger are preempted
};

}  // namespace

int64_t PagesFor(int64_t num_tokens) { return CeilDiv<int64_t>(num_tokens, kTokensPerPage); }

BatchPlan Plan(const SchedulerLimits& limits, std::span<const SequenceView> running,
               int64_t available_pages) {
  return Planner(limits, running, available_pages).Make();
}

bool MayJoin(const SchedulerLimits& limits, std::span<const SequenceView> running,
             const SequenceView& candidate, int64_t available_pages) {
  if (running.empty()) return true;
  if (static_cast<int64_t>(running.size()) >= limits.max_sequences) return false;
  const int64_t growth = CeilDiv<int64_t>(static_cast<int64_t>(running.size()) + 1, 2);
  int64_t needed = PagesFor(candidate.num_tokens) - candidate.num_pages + growth;
  for (const SequenceView& s : running)
    needed += std::max<int64_t>(0, PagesFor(s.num_tokens) - s.num_pages);
  return needed <= available_pages;
}

}  // namespace fireq
