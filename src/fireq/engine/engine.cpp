#include "fireq/engine/engine.h"

#include <algorithm>
#include <utility>

#include "fireq/engine/elapsed.h"

namespace fireq {

bool Engine::StepOnce() {
  const EngineClock::time_point start = EngineClock::now();
  Receive();
  EndCancelled();
  Admit();
  BatchPlan plan = MakePlan();
  if (flight_ && WaitsForTokens(plan)) {
    Land(std::exchange(flight_, std::nullopt));
    Admit();
    plan = MakePlan();
  }
  Preempt(plan);
  std::optional<Flight> started;
  if (!plan.entries.empty()) {
    Reserve(plan);
    started = Start(plan);
    ++now_.num_steps;
  }
  Land(std::exchange(flight_, std::move(started)));
  if (!runs_ahead_) Land(std::exchange(flight_, std::nullopt));
  if (!plan.entries.empty()) now_.step_us += ElapsedUs(start);
  Publish();
  return !running_.empty() || !waiting_.empty();
}

void Engine::EndCancelled() {
  for (const SequencePtr& sequence : running_)
    if (sequence->cancelled()) Emit(*sequence, {}, Finish{FinishReason::kCancelled});
  for (const SequencePtr& sequence : waiting_)
    if (sequence->cancelled()) Emit(*sequence, {}, Finish{FinishReason::kCancelled});
  EraseEnded();
}

void Engine::EraseEnded() {
  const auto ended = [](const SequencePtr& sequence) { return sequence->ended(); };
  std::erase_if(running_, ended);
  std::erase_if(waiting_, ended);
}

BatchPlan Engine::MakePlan() const { return Plan(limits_, Views(), pool_.num_available()); }

bool Engine::WaitsForTokens(const BatchPlan& plan) const {
  // The preempted start again from ids that are known; who cannot move waits for another's end.
  if (plan.entries.empty() || !plan.preempt.empty()) return true;
  return std::ranges::any_of(plan.entries, [&](const BatchPlan::Entry& entry) {
    const Sequence& sequence = *At(entry);
    return sequence.num_known < sequence.num_tokens() &&
           sequence.request().sampling.repetition_penalty != 1.0f;
  });
}

// Takes what the prefix cache has of the first in line, and lets it join if the rest fits.
void Engine::Admit() {
  std::vector<SequenceView> views = Views();
  while (!waiting_.empty()) {
    Sequence& sequence = *waiting_.front();
    if (options_.prefix_cache) {
      // The last token is run in any case: its logits are needed.
      const int64_t max_pages = (sequence.num_tokens() - 1) / kTokensPerPage;
      sequence.cursor = cache_.Find(sequence.ids, max_pages, sequence.lease);
      sequence.num_computed = sequence.cursor.num_pages * kTokensPerPage;
    }
    if (!MayJoin(limits_, views, sequence.View(), pool_.num_available())) {
      sequence.Preempt();
      return;
    }
    if (sequence.num_cached < 0) sequence.num_cached = sequence.num_computed;
    now_.cached_tokens += sequence.num_computed;
    views.push_back(sequence.View());
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

// The preempted are the youngest, named from the youngest on, so the line stays in order.
void Engine::Preempt(const BatchPlan& plan) {
  for (size_t i = 0; i < plan.preempt.size(); ++i) {
    running_.back()->Preempt();
    waiting_.push_front(std::move(running_.back()));
    running_.pop_back();
    ++now_.num_preempted;
  }
}

void Engine::Reserve(const BatchPlan& plan) {
  const auto pages_wanted = [&](const BatchPlan::Entry& entry) {
    return PagesFor(At(entry)->num_computed + entry.num_tokens);
  };
  int64_t needed = 0;
  for (const BatchPlan::Entry& entry : plan.entries)
    needed += pages_wanted(entry) - At(entry)->lease.size();
  cache_.Evict(needed - pool_.num_free());
  for (const BatchPlan::Entry& entry : plan.entries)
    FIREQ_CHECK(At(entry)->lease.GrowTo(pages_wanted(entry)), kInternal, "a plan of ", needed,
                " new pages with ", pool_.num_free(), " free of ", pool_.num_pages());
}

Engine::Flight Engine::Start(const BatchPlan& plan) {
  const EngineClock::time_point start = EngineClock::now();
  Flight flight;
  std::vector<RunnerRow> rows;
  for (const BatchPlan::Entry& entry : plan.entries) {
    const Sequence& sequence = *At(entry);
    const std::span<const int32_t> ids = sequence.ids;
    RunnerRow row;
    row.step = {ids.subspan(static_cast<size_t>(sequence.num_computed),
                            static_cast<size_t>(entry.num_tokens)),
                sequence.num_computed, sequence.lease.pages()};
    if (Samples(entry))
      row.sample = SampleRow{&sequence.request().sampling, ids, sequence.num_output()};
    rows.push_back(row);
    flight.rows.push_back(
        {At(entry), sequence.num_computed + entry.num_tokens, row.sample.has_value()});
    (entry.num_tokens == 1 ? now_.decode_tokens : now_.prefill_tokens) += entry.num_tokens;
  }
  flight.step = runner_.Start(rows);
  size_t choice = 0;
  for (const Flight::Row& row : flight.rows) {
    row.sequence->num_computed = row.num_computed;
    if (row.samples) row.sequence->ids.push_back(flight.step.StandIn(choice++));
  }
  now_.run_us += ElapsedUs(start);
  return flight;
}

void Engine::Land(std::optional<Flight> flight) {
  if (!flight) return;
  const EngineClock::time_point start = EngineClock::now();
  std::vector<TokenChoice> choices = flight->step.Wait();
  now_.run_us += ElapsedUs(start);
  size_t next_choice = 0;
  for (const Flight::Row& row : flight->rows) {
    Sequence& sequence = *row.sequence;
    if (options_.prefix_cache && !sequence.ended())
      cache_.Insert(sequence.cursor, sequence.ids, row.num_computed, sequence.lease);
    if (!row.samples) continue;
    TokenChoice& choice = choices[next_choice++];
    if (!sequence.ended()) AddToken(row, std::move(choice));
  }
  EraseEnded();
}

void Engine::AddToken(const Flight::Row& row, TokenChoice choice) {
  Sequence& sequence = *row.sequence;
  const Request& request = sequence.request();
  if (choice.id < 0)
    return Emit(sequence, {}, Finish{FinishReason::kError, "every logit of the model is NaN"});
  if (std::ranges::count(request.stop_ids, choice.id) > 0)
    return Emit(sequence, {}, Finish{FinishReason::kStopId});

  sequence.ids[static_cast<size_t>(sequence.num_known++)] = choice.id;
  ++now_.output_tokens;
  std::optional<Finish> finish;
  if (sequence.num_known_output() == request.max_new_tokens) {
    finish = Finish{FinishReason::kLength};
  } else if (row.num_computed == max_sequence_tokens_) {
    finish = Finish{FinishReason::kContextFull};
  }
  Emit(sequence, std::move(choice), std::move(finish));
}

bool Engine::Samples(const BatchPlan::Entry& entry) const {
  const Sequence& sequence = *At(entry);
  return sequence.num_computed + entry.num_tokens == sequence.num_tokens();
}

bool Engine::HasItsLast(const Sequence& sequence) const {
  return sequence.num_known < sequence.num_tokens() &&
         (sequence.num_output() == sequence.request().max_new_tokens ||
          sequence.num_computed == max_sequence_tokens_);
}

std::vector<SequenceView> Engine::Views() const {
  std::vector<SequenceView> views;
  for (const SequencePtr& sequence : running_) {
    SequenceView& view = views.emplace_back(sequence->View());
    if (HasItsLast(*sequence)) view.num_tokens = view.num_computed;  // wants nothing more
  }
  return views;
}

}  // namespace fireq
