#include "fireq/engine/runner.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "fireq/base/math.h"
#include "fireq/engine/scheduler.h"

namespace fireq {
namespace {

RunnerOptions Checked(RunnerOptions options, const ModelConfig& config) {
  FIREQ_CHECK(options.max_sequences > 0 && options.max_sequences <= options.max_tokens,
              kInvalidArgument, "up to ", options.max_sequences, " sequences in steps of ",
              options.max_tokens, " tokens: there must be a token for each, and at least one");
  FIREQ_CHECK(options.memory_bytes > 0, kInvalidArgument, "a memory budget of ",
              options.memory_bytes, " bytes");
  FIREQ_CHECK(options.max_context >= 0 && options.max_pages >= 0, kInvalidArgument, "a context of ",
              options.max_context, " tokens, ", options.max_pages, " pages");
  if (options.max_context == 0) options.max_context = config.max_context;
  if (options.reduction == Reduction::kBatchInvariant && options.products == Products::kServed)
    options.products = Products::kTable;
  return options;
}

// How many sequences a decode step of `count` is filled up to: at most an eighth more.
int64_t RoundNumber(int64_t count) {
  int64_t step = 1;
  while (16 * step < count) step *= 2;
  return AlignUp(count, step);
}

int64_t MaxPageWidth(const RunnerOptions& options) {
  return std::max<int64_t>(1, PagesFor(options.max_context));
}

// Wide enough for `pages` and few different ones.
int64_t RoundPages(int64_t pages) {
  int64_t rounded = 8;
  while (rounded < pages) rounded *= 2;
  return rounded;
}

StepLimits LimitsOf(const RunnerOptions& options, int64_t max_logit_rows, const Model& model) {
  return {.max_tokens = options.max_tokens,
          .max_sequences = max_logit_rows,  // fillers included
          .max_context = options.max_context,
          .max_logit_rows = max_logit_rows,
          .lm_head = model.weights.lm_head.get(),
          .num_heads = model.config.num_heads,
          .kv_heads = model.config.num_kv_heads,
          .head_dim = model.config.head_dim,
          .kv_grid = model.quant.arithmetic.kv,
          .memory_bytes = options.memory_bytes};
}

// What the backend, and of several ranks their connection, need for themselves.
int64_t Reserve(Backend& backend, const Model& model, const StepLimits& limits) {
  const int64_t ranks = model.ranks ? model.ranks->Reserve(backend, limits) : 0;
  return ranks + backend.Reserve(limits);
}

ForwardContext MakeRunnerContext(Backend& backend, const Model& model,
                                 const RunnerOptions& options) {
  ForwardContext context = MakeContext(backend, model, options.max_context, options.products);
  context.reduction = options.reduction;
  return context;
}

}  // namespace

Runner::Runner(Backend& backend, const Model& model, const RunnerOptions& options,
               std::unique_ptr<TokenSampler> sampler)
    : backend_(backend),
      model_(model),
      options_(Checked(options, model.config)),
      context_(MakeRunnerContext(backend, model, options_)),
      buffers_(context_, options_.max_tokens),
      max_decode_(std::min(RoundNumber(options_.max_sequences), options_.max_tokens)),
      logits_(context_, model.weights, max_decode_, backend.LogitType(*model.weights.lm_head)),
      sampled_(backend.Allocate(context_.border(), {options_.max_sequences, model.config.hidden})),
      chosen_(backend.Allocate(DType::kI32, {max_decode_})),
      arrays_(backend, options_.max_tokens, max_decode_, MaxPageWidth(options_)),
      sampler_(std::move(sampler)),
      reserved_bytes_(Reserve(backend, model, LimitsOf(options_, max_decode_, model))) {
  MakeCache();
}

int64_t Runner::working_bytes() const {
  const int64_t sampling =
      BackendTokenSampler::SizeBytes(options_.max_sequences, options_.max_context) +
      options_.max_sequences * SizeBytes(DType::kI32);  // rows that sample
  return context_.rope_cos.size_bytes() + context_.rope_sin.size_bytes() + buffers_.size_bytes() +
         logits_.size_bytes() + sampled_.size_bytes() + chosen_.size_bytes() +
         arrays_.size_bytes() + sampling + reserved_bytes_;
}

void Runner::MakeCache() {
  const ModelConfig& config = model_.config;
  const KvPageLayout layout{model_.quant.arithmetic.kv, static_cast<int>(config.num_kv_heads),
                            static_cast<int>(config.head_dim)};
  const int64_t page_bytes = layout.page_bytes() * config.num_layers;
  const int64_t working = working_bytes();
  num_pages_ = std::max<int64_t>(0, options_.memory_bytes - working) / page_bytes;
  if (options_.max_pages > 0) num_pages_ = std::min(num_pages_, options_.max_pages);
  FIREQ_CHECK(num_pages_ > 0, kOutOfMemory, "a budget of ", options_.memory_bytes,
              " bytes does not hold activations, logits, tables and the backend's own ",
              reserved_bytes_, " bytes, together ", working, " bytes, and a page of the cache of ",
              page_bytes);
  cache_.emplace(backend_, config, model_.quant.arithmetic.kv, config.num_layers, num_pages_);
}

std::vector<TokenChoice> StepInFlight::Wait() {
  if (chosen_ == nullptr) return {};
  std::vector<TokenChoice> chosen = chosen_->Wait();
  std::vector<TokenChoice> out;
  for (const size_t place : places_) out.push_back(std::move(chosen[place]));
  return out;
}

BatchView Runner::Fill(std::span<const SequenceStep> steps, int64_t max_pages, int64_t fillers) {
  BatchView batch = arrays_.Fill(steps, max_pages, fillers);
  batch.chosen = chosen_;
  return batch;
}

StepInFlight Runner::Start(std::span<const RunnerRow> rows) {
  if (context_.ranks != nullptr) context_.ranks->Check();
  // Sequences of one token first: a backend runs them through another kernel than long runs.
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_partition(order, [&](size_t i) { return rows[i].step.ids.size() == 1; });
  std::vector<SequenceStep> steps;
  std::vector<SampleRow> samples;
  std::vector<size_t> sampled;       // which of `rows`
  std::vector<int32_t> last_tokens;  // of the rows that sample, in the batch
  int64_t num_tokens = 0;
  for (const size_t i : order) {
    steps.push_back(rows[i].step);
    num_tokens += static_cast<int64_t>(rows[i].step.ids.size());
    if (!rows[i].sample) continue;
    samples.push_back(*rows[i].sample);
    sampled.push_back(i);
    last_tokens.push_back(static_cast<int32_t>(num_tokens - 1));
  }
  const HeadOutput output = OutputFor(samples);
  if (IsDecode(rows)) {
    Decode(steps, output);
  } else {
    Mixed(steps, last_tokens, output);
  }
  if (samples.empty()) return {};
  const Tensor ids = chosen_.Rows(0, static_cast<int64_t>(samples.size()));
  // Back into the order of `rows`.
  std::vector<size_t> places(samples.size());
  std::iota(places.begin(), places.end(), size_t{0});
  std::ranges::sort(places, {}, [&](size_t p) { return sampled[p]; });
  // A backend that finds the largest downloads copies: the next step writes `ids` again.
  auto chosen = output == HeadOutput::kLargest
                    ? StartArrival(backend_, ids)
                    : sampler_->Start(logits_.logits.Rows(0, ids.dim(0)), samples, ids);
  return {std::move(chosen), std::move(places)};
}

// Every row brings one token and wants the next.
bool Runner::IsDecode(std::span<const RunnerRow> rows) const {
  const bool records =
      options_.record_decode == RecordDecode::kAlways ||
      (options_.record_decode == RecordDecode::kWhereItGains && backend_.GainsByRecording());
  // What is filled up changes what the rows of a step are computed with.
  if (!records || options_.reduction == Reduction::kBatchInvariant) return false;
  return std::ranges::all_of(
      rows, [](const RunnerRow& row) { return row.step.ids.size() == 1 && row.sample; });
}

// Logits that nobody reads are not written: for many rows that would be a fifth of lm_head's time.
Runner::HeadOutput Runner::OutputFor(std::span<const SampleRow> samples) const {
  const bool largest = std::ranges::all_of(
      samples, [](const SampleRow& row) { return ChoosesTheLargest(*row.params); });
  const bool finds = backend_.FindsLargest(*model_.weights.lm_head);
  return largest && finds && sampler_->LeavesTheLargest() ? HeadOutput::kLargest
                                                          : HeadOutput::kLogits;
}

// Of each of `steps`.
void Runner::Decode(std::span<const SequenceStep> steps, HeadOutput output) {
  const int64_t count = static_cast<int64_t>(steps.size());
  const int64_t filled = std::min(RoundNumber(count), max_decode_);
  const int64_t pages = std::min(RoundPages(MaxPages(steps)), MaxPageWidth(options_));
  DecodeWork& work = decode_[{filled, pages, output}];
  work.batch = Fill(steps, pages, filled - count);
  if (work.recording) {
    work.recording->Run();
  } else if (work.has_run) {
    work.recording = backend_.Record([this, &work, output] { ForwardDecode(work, output); });
    work.recording->Run();
  } else {
    ForwardDecode(work, output);
    work.has_run = true;
  }
}

void Runner::ForwardDecode(const DecodeWork& work, HeadOutput output) {
  ForwardHead(ForwardHidden(context_, buffers_, model_.weights, work.batch, cache_->layers()),
              output);
}

void Runner::ForwardHead(const Tensor& hidden, HeadOutput output) {
  if (output == HeadOutput::kLargest) {
    ForwardLargest(context_, logits_, model_.weights, hidden, chosen_.Rows(0, hidden.dim(0)));
  } else {
    ForwardLogits(context_, logits_, model_.weights, hidden);
  }
}

// Of `last_tokens`.
void Runner::Mixed(std::span<const SequenceStep> steps, std::span<const int32_t> last_tokens,
                   HeadOutput output) {
  const BatchView batch = Fill(steps, MaxPages(steps));
  const int64_t count = static_cast<int64_t>(last_tokens.size());
  const bool all = count == batch.num_tokens;
  WantedRows wanted;
  if (count > 0 && !all) {
    wanted.rows = backend_.Upload(Tensor::FromVector(
        DType::kI32, {count}, std::vector<int32_t>(last_tokens.begin(), last_tokens.end())));
    wanted.hidden = sampled_.Rows(0, count);
  }
  const Tensor hidden = ForwardHidden(context_, buffers_, model_.weights, batch, cache_->layers(),
                                      all ? nullptr : &wanted);
  if (count > 0) ForwardHead(hidden, output);
}

}  // namespace fireq
