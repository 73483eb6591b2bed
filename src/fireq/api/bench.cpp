#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <thread>

#include "fireq/api/fireq.h"
#include "fireq/api/lm_head.h"
#include "fireq/api/products.h"
#include "fireq/api/wiring.h"
#include "fireq/base/number_text.h"
#include "fireq/measure/phases.h"
#include "fireq/model/synthetic.h"

namespace fireq {
namespace {

using Row = std::vector<std::string>;

PhaseShape ParseShape(const std::string& text) {
  long long batch = 0, input = 0, output = 0;
  int end = 0;
  const int fields = std::sscanf(text.c_str(), "%lldx%lldx%lld%n", &batch, &input, &output, &end);
  const auto is_size = [](long long value) { return value > 0 && value <= INT32_MAX; };
  FIREQ_CHECK(fields == 3 && text[static_cast<size_t>(end)] == '\0' && is_size(batch) &&
                  is_size(input) && is_size(output),
              kInvalidArgument, "shape \"", text, "\" is not BATCHxINPUTxOUTPUT");
  return {batch, input, output};
}

void CheckRequest(const BenchRequest& request) {
  FIREQ_CHECK(request.model.empty() != request.synthetic.empty(), kInvalidArgument,
              "either a model or the name of a synthetic one");
  FIREQ_CHECK(!request.shapes.empty(), kInvalidArgument, "no shape to measure");
  FIREQ_CHECK(request.repeats > 0, kInvalidArgument, "repeats must be >= 1, got ", request.repeats);
  FIREQ_CHECK(request.layers >= 0, kInvalidArgument, "layers must be >= 0, got ", request.layers);
  FIREQ_CHECK(request.layers == 0 || request.model.empty(), kInvalidArgument, request.layers,
              " layers of ", request.model, ": only a synthetic model is cut");
  FIREQ_CHECK(request.requests >= 0, kInvalidArgument, "requests must be >= 0, got ",
              request.requests);
  FIREQ_CHECK(request.max_tokens > 0, kInvalidArgument, "tokens of a step must be >= 1, got ",
              request.max_tokens);
  // In GiB: what int64 holds in bytes.
  FIREQ_CHECK(request.memory_gib >= 0.0 && request.memory_gib < 0x1p33, kInvalidArgument,
              "memory must be a number of GiB >= 0, got ", request.memory_gib);
  FIREQ_CHECK(request.tensor_parallel >= 1 && request.tensor_parallel <= 64, kInvalidArgument,
              request.tensor_parallel, " ranks: expected 1 to 64");
}

class Bencher {
 public:
  explicit Bencher(const BenchRequest& request, Share share = {})
      : request_(request), share_(share), backend_(MakeOwnBackend()), model_(Load()) {
    options_.max_tokens = request.max_tokens;
    options_.memory_bytes = static_cast<int64_t>(request.memory_gib * 0x1p30);
    options_.products = ToProducts(request.products);
    if (request.eager) options_.record_decode = RecordDecode::kNever;
    if (request.batch_invariant) options_.reduction = Reduction::kBatchInvariant;
  }

  Backend& backend() { return *backend_; }
  // Of a share, before the first Run.
  void Join(std::shared_ptr<Ranks> ranks) { model_.ranks = std::move(ranks); }

  void Run(const PhaseShape& shape) {
    if (request_.phase == "prefill") return Prefill(shape);
    if (request_.phase == "decode") return Decode(shape);
    if (request_.phase == "serve") return Serve(shape);
    Profile(shape);
  }

 private:
  std::unique_ptr<Backend> MakeOwnBackend() const {
    if (share_.size > 1) return MakeRankBackend(request_.runtime, share_);
    return request_.model.empty() ? MakeBackend(request_.runtime)
                                  : MakeBackend(request_.runtime, request_.model);
  }
  Model Load() {
    if (!request_.model.empty())
      return LoadModel(*backend_, ResolveModel(request_.model, request_.runtime),
                       MakeHead(request_.lm_head, ResolveModel(request_.model, request_.runtime),
                                request_.runtime.num_threads),
                       share_);
    ModelConfig config = SyntheticConfig(request_.synthetic);
    if (request_.layers > 0) config.num_layers = request_.layers;
    return MakeSyntheticModel(
        *backend_, config,
        request_.lm_head == LmHead::kInt4 ? WeightForm::kInt4 : WeightForm::kBf16, 1, share_);
  }

  std::string ModelName() const {
    const std::string name =
        request_.model.empty() ? "synthetic " + request_.synthetic : request_.model;
    return request_.lm_head == LmHead::kInt4 ? name + " (INT4 lm_head)" : name;
  }

  std::string BackendName() const {
    return share_.size == 1 ? backend_->name() : StrCat(share_.size, " x ", backend_->name());
  }

  // What every phase's row begins with.
  Row Begin(const PhaseShape& shape, double tokens_per_second, int64_t requests = 0) const {
    Row row = {ModelName(), std::to_string(shape.batch), std::to_string(shape.input),
               std::to_string(shape.output), FixedText(tokens_per_second, 1)};
    const double baseline = Baseline(shape, requests);
    row.push_back(baseline > 0 ? FixedText(baseline, 1) : "");
    row.push_back(baseline > 0 ? FixedText(tokens_per_second / baseline, 3) : "");
    row.push_back(BackendName());
    return row;
  }
  double Baseline(const PhaseShape& shape, int64_t requests) const {
    if (!request_.baseline || share_.rank > 0) return 0.0;
    const ModelConfig& c = model_.config;
    return request_.baseline({.phase = request_.phase,
                              .hidden = c.hidden,
                              .ffn = c.ffn,
                              .layers = c.num_layers,
                              .heads = c.num_heads,
                              .kv_heads = c.num_kv_heads,
                              .head_dim = c.head_dim,
                              .vocab = c.vocab_size,
                              .batch = shape.batch,
                              .input = shape.input,
                              .output = shape.output,
                              .max_tokens = StepTokens(options_, shape),
                              .requests = requests});
  }
  void Emit(Row row, std::initializer_list<std::string> values) const {
    if (share_.rank > 0) return;  // the first speaks for all
    row.insert(row.end(), values);
    request_.on_row(row);
  }

  void Prefill(const PhaseShape& shape) {
    const PhaseSpeed speed = MeasurePrefill(*backend_, model_, options_, shape, request_.repeats);
    Emit(Begin(shape, speed.tokens_per_second()),
         {FixedText(speed.seconds, 4), std::to_string(speed.steps),
          std::to_string(StepTokens(options_, shape))});
  }
  void Decode(const PhaseShape& shape) {
    const PhaseSpeed speed = MeasureDecode(*backend_, model_, options_, shape);
    const auto steps = static_cast<double>(speed.steps);
    const auto recorded = static_cast<double>(std::max<int64_t>(speed.recorded_steps, 1));
    Emit(Begin(shape, speed.tokens_per_second()),
         {FixedText(1e6 * speed.seconds / steps, 1),
          FixedText(1e6 * speed.recorded_seconds / recorded, 1)});
  }
  void Serve(const PhaseShape& shape) {
    const int64_t requests = request_.requests > 0 ? request_.requests : shape.batch;
    const ServeSpeed speed = MeasureServe(*backend_, model_, options_, shape, requests);
    const EngineMetrics& m = speed.metrics;
    const auto quantile_ms = [&](double q) {
      const auto last = static_cast<double>(speed.first_token_us.size() - 1);
      return 1e-3 * static_cast<double>(speed.first_token_us[static_cast<size_t>(q * last)]);
    };
    Emit(Begin(shape, speed.all.tokens_per_second(), requests),
         {std::to_string(requests), FixedText(speed.all.seconds, 3), std::to_string(m.num_steps),
          std::to_string(m.prefill_tokens), std::to_string(m.decode_tokens),
          std::to_string(m.num_preempted),
          FixedText(1.0 - static_cast<double>(m.run_us) / static_cast<double>(m.step_us), 4),
          FixedText(quantile_ms(0.5), 1), FixedText(quantile_ms(0.99), 1),
          std::to_string(StepTokens(options_, shape))});
  }
  void Profile(const PhaseShape& shape) {
    const OpProfile profile = ProfileOps(*backend_, model_, options_, shape);
    const Row begin = {ModelName(), std::to_string(shape.batch), std::to_string(shape.input),
                       BackendName()};
    for (const auto& [name, ops] :
         {std::pair("prefill", &profile.prefill), std::pair("decode", &profile.decode_step)}) {
      double total = 0.0;
      for (const auto& [op, time] : *ops) total += time.microseconds;
      for (const auto& [op, time] : *ops)
        Emit(begin, {name, op, std::to_string(time.calls),
                     FixedText(time.microseconds / static_cast<double>(time.calls), 2),
                     FixedText(time.microseconds / total, 4)});
    }
  }

  const BenchRequest& request_;
  const Share share_;
  std::unique_ptr<Backend> backend_;
  Model model_;
  MeasureOptions options_;
};

// The same request on every rank, each in a thread of its own. They schedule alike, so their steps
// are the same. One that fails ends the others.
class BenchOnRanks {
 public:
  BenchOnRanks(const BenchRequest& request, const std::vector<PhaseShape>& shapes)
      : request_(request),
        shapes_(shapes),
        size_(request.tensor_parallel),
        meeting_(size_),
        backends_(static_cast<size_t>(size_)) {}

  void Run() {
    std::vector<std::jthread> threads;
    threads.reserve(static_cast<size_t>(size_));
    for (int rank = 0; rank < size_; ++rank) threads.emplace_back([this, rank] { RunRank(rank); });
    threads.clear();
    if (first_error_) std::rethrow_exception(first_error_);
  }

 private:
  template <class Body>
  void Try(int rank, const Body& body) {
    try {
      body();
    } catch (...) {
      // What comes after the first are ranks that it has stopped.
      if (!failed_.exchange(true)) first_error_ = std::current_exception();
      if (!ranks_.empty()) ranks_[static_cast<size_t>(rank)]->Fail();
    }
  }
  // Whether no rank has failed. All meet, and again before any goes on to where it might.
  template <class Body>
  bool Together(int rank, const Body& body) {
    Try(rank, body);
    meeting_.arrive_and_wait();
    const bool all_well = !failed_;
    meeting_.arrive_and_wait();
    return all_well;
  }

  void RunRank(int rank) {
    std::unique_ptr<Bencher> bencher;
    const bool loaded = Together(rank, [&] {
      bencher = std::make_unique<Bencher>(request_, Share{rank, size_});
      backends_[static_cast<size_t>(rank)] = &bencher->backend();
    });
    if (!loaded) return;
    const bool connected = Together(rank, [&] {
      if (rank == 0) ranks_ = Connect(request_.runtime, backends_);
    });
    if (!connected) return;
    bencher->Join(ranks_[static_cast<size_t>(rank)]);
    Try(rank, [&] {
      for (const PhaseShape& shape : shapes_) bencher->Run(shape);
    });
  }

  const BenchRequest& request_;
  const std::vector<PhaseShape>& shapes_;
  const int size_;
  std::barrier<> meeting_;
  std::atomic<bool> failed_ = false;
  std::vector<Backend*> backends_;
  std::exception_ptr first_error_;
  std::vector<std::shared_ptr<Ranks>> ranks_;
};

}  // namespace

std::vector<std::string> BenchColumns(const std::string& phase) {
  Row columns = {
      "model", "batch",  "input", "output", "tokens_per_second", "baseline_tokens_per_second",
      "ratio", "backend"};
  const auto with = [&](std::initializer_list<std::string> own) {
    columns.insert(columns.end(), own);
    return columns;
  };
  if (phase == "prefill") return with({"seconds", "steps", "max_tokens"});
  if (phase == "decode") return with({"step_us", "recorded_us"});
  if (phase == "serve")
    return with({"requests", "seconds", "steps", "prefill_tokens", "decode_tokens", "preempted",
                 "scheduling_share", "first_token_ms_p50", "first_token_ms_p99", "max_tokens"});
  FIREQ_CHECK(phase == "profile", kInvalidArgument, "no phase \"", phase,
              "\": prefill, decode, serve, profile");
  return {"model", "batch", "input", "backend", "phase", "op", "calls", "us", "share"};
}

void Bench(const BenchRequest& request) {
  BenchColumns(request.phase);
  CheckRequest(request);
  std::vector<PhaseShape> shapes;
  for (const std::string& shape : request.shapes) shapes.push_back(ParseShape(shape));
  if (request.tensor_parallel > 1) return BenchOnRanks(request, shapes).Run();
  Bencher bencher(request);
  for (const PhaseShape& shape : shapes) bencher.Run(shape);
}

}  // namespace fireq
