// What the next step runs: pure functions of sizes, tested without a model.
//
// Running sequences stand in the order of their arrival. Those that need one token more (decode) go
// first; prompts share what is left of the step's token budget in chunks. When pages run out the
// youngest sequence gives all of its own back and is recomputed later, so the oldest one always
// advances and every request ends.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fireq {

struct SchedulerLimits {
  int64_t max_tokens = 2048;    // of a step
  int64_t max_sequences = 256;  // running at once; at most max_tokens
};

// A running sequence in numbers.
struct SequenceView {
  int64_t num_tokens = 0;       // known ids: prompt and output
  int64_t num_computed = 0;     // of them, in the cache; less than num_tokens
  int64_t num_pages = 0;        // held
  int64_t exclusive_pages = 0;  // held by nobody else
};

struct BatchPlan {
  struct Entry {
    int64_t sequence = 0;    // index into the running sequences
    int64_t num_tokens = 0;  // to run from num_computed on, at least one
  };
  std::vector<Entry> entries;    // in the order of `sequence`
  std::vector<int64_t> preempt;  // give back all pages before the entries take theirs
};

// Pages for `num_tokens` tokens.
int64_t PagesFor(int64_t num_tokens);

// Entries of at most limits.max_tokens tokens whose new pages fit in `available_pages` and what the
// preempted give back. Never preempts running[0]. Preempts or runs something if there is a sequence
// and the first one, alone, fits in the pool.
BatchPlan Plan(const SchedulerLimits& limits, std::span<const SequenceView> running,
               int64_t available_pages);

// Whether a sequence with `candidate` as its state may join `running`: there is a place for it, and
// in `available_pages` fit all its known tokens, those that the others still have to run, and a
// page of growth for every second sequence (as many as need one within half a page's tokens). With
// nothing running anything may.
bool MayJoin(const SchedulerLimits& limits, std::span<const SequenceView> running,
             const SequenceView& candidate, int64_t available_pages);

}  // namespace fireq
