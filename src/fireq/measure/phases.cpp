#include "fireq/measure/phases.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <utility>

namespace fireq {

int64_t StepTokens(const MeasureOptions& options, const PhaseShape& shape) {
  return std::max(options.max_tokens, 2 * shape.batch);
}

namespace {

std::vector<int32_t> RandomPrompt(std::mt19937_64& rng, const Model& model, int64_t length) {
  std::vector<int32_t> ids(static_cast<size_t>(length));
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng() % static_cast<uint64_t>(model.config.vocab_size));
  return ids;
}

RunnerOptions MakeRunnerOptions(Backend& backend, const MeasureOptions& options,
                                const PhaseShape& shape) {
  RunnerOptions runner;
  runner.max_context = shape.input + shape.output;
  runner.max_tokens = StepTokens(options, shape);
  runner.max_sequences = shape.batch;
  runner.memory_bytes =
      options.memory_bytes > 0 ? options.memory_bytes : backend.FreeBytes() / 10 * 9;
  // What the sequences can fill, and a page of growth for each that the scheduler keeps free.
  runner.max_pages = shape.batch * (PagesFor(runner.max_context) + 1);
  runner.products = options.products;
  runner.reduction = options.reduction;
  runner.record_decode = options.record_decode;
  return runner;
}

// Sequences that are stepped by hand, each with pages of its own.
class HandStepped {
 public:
  HandStepped(Backend& backend, const Model& model, const MeasureOptions& options,
              const PhaseShape& shape)
      : max_tokens_(StepTokens(options, shape)),
        runner_(backend, model, MakeRunnerOptions(backend, options, shape),
                std::make_unique<BackendTokenSampler>(backend)) {
    std::mt19937_64 rng(static_cast<uint64_t>(shape.batch * 1000003 + shape.input));
    const int64_t pages = PagesFor(shape.input + shape.output);
    for (int64_t s = 0; s < shape.batch; ++s) {
      Sequence& sequence = sequences_.emplace_back();
      sequence.ids = RandomPrompt(rng, model, shape.input);
      sequence.pages.resize(static_cast<size_t>(pages));
      std::iota(sequence.pages.begin(), sequence.pages.end(), static_cast<int32_t>(s * pages));
    }
  }

  // Runs the prompts in steps of max_tokens.
  void Prefill() {
    size_t next = 0;
    while (next < sequences_.size()) {
      std::vector<RunnerRow> rows;
      int64_t left = max_tokens_;
      const size_t first = next;
      while (next < sequences_.size() && left > 0) {
        Sequence& s = sequences_[next];
        const int64_t total = static_cast<int64_t>(s.ids.size());
        const int64_t count = std::min(left, total - s.computed);
        rows.push_back(Row(s, count, s.computed + count == total));
        left -= count;
        s.computed += count;
        if (s.computed == total) ++next;
      }
      Append(first, runner_.Run(rows));
    }
  }

  // Starts the step before the tokens of the last one are read, as the engine does.
  void DecodeStep() {
    std::vector<RunnerRow> rows;
    for (Sequence& s : sequences_) rows.push_back(Row(s, 1, true));
    for (Sequence& s : sequences_) ++s.computed;
    StepInFlight step = runner_.Start(rows);
    Land();
    for (size_t i = 0; i < sequences_.size(); ++i) sequences_[i].ids.push_back(step.StandIn(i));
    flight_ = std::move(step);
  }
  void Land() {
    if (!flight_) return;
    for (Sequence& s : sequences_) s.ids.pop_back();
    Append(0, flight_->Wait());
    flight_.reset();
  }

 private:
  struct Sequence {
    std::vector<int32_t> ids, pages;
    int64_t computed = 0;
  };

  static RunnerRow Row(const Sequence& s, int64_t count, bool samples) {
    static const SamplingParams greedy;
    RunnerRow row;
    row.step = {
        std::span(s.ids).subspan(static_cast<size_t>(s.computed), static_cast<size_t>(count)),
        s.computed, s.pages};
    if (samples) row.sample = SampleRow{&greedy, s.ids, 0};
    return row;
  }
  void Append(size_t first, const std::vector<TokenChoice>& choices) {
    for (size_t i = 0; i < choices.size(); ++i) {
      FIREQ_CHECK(choices[i].id >= 0, kInternal, "sequence ", first + i, " has NaN logits");
      sequences_[first + i].ids.push_back(choices[i].id);
    }
  }

  int64_t max_tokens_;
  Runner runner_;
  std::vector<Sequence> sequences_;
  std::optional<StepInFlight> flight_;
};

ServeSpeed RunRequests(Backend& backend, const Model& model, const MeasureOptions& options,
                       const PhaseShape& shape, int64_t requests) {
  EngineOptions engine_options;
  engine_options.runner = MakeRunnerOptions(backend, options, shape);
  engine_options.prefix_cache = false;
  engine_options.queue_capacity = requests;
  Engine engine(backend, model, engine_options);
  std::mt19937_64 rng(static_cast<uint64_t>(requests));
  std::vector<Request> prompts;
  for (int64_t i = 0; i < requests; ++i)
    prompts.push_back(
        {.prompt = RandomPrompt(rng, model, shape.input), .max_new_tokens = shape.output});
  ServeSpeed result;
  const auto on_event = [&](const TokenEvent& event) {
    if (!event.finish) return;
    FIREQ_CHECK(event.finish->output_tokens == shape.output, kInternal, "request ", event.request,
                " ended after ", event.finish->output_tokens, " tokens: ", event.finish->error);
    result.first_token_us.push_back(event.finish->first_token_us);
  };
  backend.Synchronize();
  const auto start = EngineClock::now();
  for (Request& request : prompts)
    FIREQ_CHECK(engine.Submit(std::move(request), on_event).has_value(), kInternal,
                "the engine's queue is full");
  while (engine.Step()) {
  }
  result.all.seconds = 1e-6 * static_cast<double>(ElapsedUs(start));
  result.metrics = engine.metrics();
  FIREQ_CHECK(result.metrics.output_tokens == requests * shape.output, kInternal,
              result.metrics.output_tokens, " output tokens of ", requests, " requests");
  result.all.tokens = result.metrics.output_tokens;
  result.all.steps = result.metrics.num_steps;
  std::sort(result.first_token_us.begin(), result.first_token_us.end());
  return result;
}

}  // namespace

PhaseSpeed MeasurePrefill(Backend& backend, const Model& model, const MeasureOptions& options,
                          const PhaseShape& shape, int repeats) {
  std::vector<PhaseSpeed> runs;
  for (int i = 0; i <= repeats; ++i) {  // the first warms up
    PhaseSpeed run =
        RunRequests(backend, model, options, {shape.batch, shape.input, 1}, shape.batch).all;
    run.tokens = shape.batch * shape.input;
    if (i > 0) runs.push_back(run);
  }
  std::ranges::sort(runs, {}, &PhaseSpeed::seconds);
  return runs.at(runs.size() / 2);
}

PhaseSpeed MeasureDecode(Backend& backend, const Model& model, const MeasureOptions& options,
                         const PhaseShape& shape) {
  constexpr int kWarmUp = 3;  // once as it is, once recorded, once again
  // A mark that reads the clock keeps a GPU waiting: most steps are as the engine's, without.
  constexpr int kStepsAMark = 8;
  PhaseShape all = shape;
  all.output += kWarmUp;
  ProfiledBackend marked(backend, ProfileDetail::kRecordings);
  HandStepped sequences(marked, model, options, all);
  sequences.Prefill();
  for (int i = 0; i < kWarmUp; ++i) sequences.DecodeStep();
  sequences.Land();
  marked.Take();
  PhaseSpeed speed{.tokens = shape.batch * shape.output, .steps = shape.output};
  const auto start = EngineClock::now();
  for (int64_t i = 0; i < shape.output; ++i) {
    marked.TimeRecordings(i % kStepsAMark == 0);
    sequences.DecodeStep();
  }
  sequences.Land();
  speed.seconds = 1e-6 * static_cast<double>(ElapsedUs(start));
  const OpTime recorded = marked.Take()["recording"];
  speed.recorded_seconds = 1e-6 * recorded.microseconds;
  speed.recorded_steps = recorded.calls;
  return speed;
}

ServeSpeed MeasureServe(Backend& backend, const Model& model, const MeasureOptions& options,
                        const PhaseShape& shape, int64_t requests) {
  RunRequests(backend, model, options, {shape.batch, std::min<int64_t>(shape.input, 64), 4},
              std::min<int64_t>(2, shape.batch));
  return RunRequests(backend, model, options, shape, requests);
}

OpProfile ProfileOps(Backend& backend, const Model& model, const MeasureOptions& options,
                     const PhaseShape& shape) {
  constexpr int kWarmUp = 2;
  ProfiledBackend profiled(backend, ProfileDetail::kOps);
  PhaseShape all = shape;
  all.output = kWarmUp + 1;
  OpProfile profile;
  HandStepped(profiled, model, options, all).Prefill();
  profiled.Take();
  HandStepped sequences(profiled, model, options, all);
  sequences.Prefill();
  profile.prefill = profiled.Take();
  for (int i = 0; i < kWarmUp; ++i) sequences.DecodeStep();
  profiled.Take();
  sequences.DecodeStep();
  profile.decode_step = profiled.Take();
  return profile;
}

}  // namespace fireq
