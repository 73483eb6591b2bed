#include "fireq/engine/runner.h"

#include <algorithm>
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
      sampler_(std::move(sampler)) {
  MakeCache();
}

int64_t Runner::working_bytes() const {
  const int64_t s = options_.max_sequences;
  const int64_t hidden_bytes = model_.config.hidden * SizeBytes(context_.border());
  const int64_t logits = s * (2 * hidden_bytes + model_.config.vocab_size * SizeBytes(DType::kF32));
  const int64_t batch =
      SizeBytes(DType::kI32) * (2 * options_.max_tokens + s * (PagesFor(options_.max_context) + 3) +
                                1 + 5 * kBatchArrayAlign);
  return context_.rope_cos.size_bytes() + context_.rope_sin.size_bytes() + buffers_.size_bytes() +
         logits + batch;
}

void Runner::MakeCache() {
  const ModelConfig& config = model_.config;
  const KvPageLayout layout{model_.quant.arithmetic.kv, static_cast<int>(config.num_kv_heads),
                            static_cast<int>(config.head_dim)};
  const int64_t page_bytes = layout.page_bytes() * config.num_layers;
  const int64_t working = working_bytes();
  int64_t pages = std::max<int64_t>(0, options_.memory_bytes - working) / page_bytes;
  if (options_.max_pages > 0) pages = std::min(pages, options_.max_pages);
  FIREQ_CHECK(pages > 0, kOutOfMemory, "a budget of ", options_.memory_bytes,
              " bytes does not hold activations, logits and tables of ", working,
              " bytes and a page of the cache of ", page_bytes);
  cache_.emplace(backend_, config, model_.quant.arithmetic.kv, config.num_layers, pages);
}

std::vector<TokenChoice> Runner::Run(std::span<const RunnerRow> rows) {
  std::vector<SequenceStep> steps;
  std::vector<SampleRow> samples;
  std::vector<int32_t> last_tokens;  // of the rows that sample, in the batch
  int64_t num_tokens = 0;
  for (const RunnerRow& row : rows) {
    steps.push_back(row.step);
    num_tokens += static_cast<int64_t>(row.step.ids.size());
    if (!row.sample) continue;
    samples.push_back(*row.sample);
    last_tokens.push_back(static_cast<int32_t>(num_tokens - 1));
  }
  const BatchView batch = MakeBatch(backend_, steps);
  const Tensor hidden = ForwardHidden(context_, buffers_, model_.weights, batch, cache_->layers());
  if (samples.empty()) return {};
  return sampler_->Sample(Logits(hidden, last_tokens), samples);
}

Tensor Runner::Logits(const Tensor& hidden, std::span<const int32_t> last_tokens) {
  const int64_t count = static_cast<int64_t>(last_tokens.size());
  if (count == hidden.dim(0)) return ForwardLogits(context_, model_.weights, hidden);
  const Tensor rows = backend_.Upload(Tensor::FromVector(
      DType::kI32, {count}, std::vector<int32_t>(last_tokens.begin(), last_tokens.end())));
  const Tensor sampled = backend_.Allocate(hidden.dtype(), {count, hidden.dim(1)});
  backend_.GatherRows(hidden, rows, sampled);
  return ForwardLogits(context_, model_.weights, sampled);
}

}  // namespace fireq
