#include "fireq/engine/session.h"

#include <algorithm>
#include <numeric>

#include "fireq/base/math.h"
#include "fireq/model/batch.h"

namespace fireq {

Session::Session(Backend& backend, const Model& model, const SessionOptions& options)
    : backend_(backend),
      model_(model),
      options_(options),
      max_context_(options.max_context > 0 ? options.max_context : model.config.max_context),
      context_(MakeContext(backend, model, max_context_, options.products)) {
  FIREQ_CHECK(options.prefill_chunk > 0, kInvalidArgument, "prefill chunk of ",
              options.prefill_chunk, " tokens");
  context_.reduction = options.reduction;
}

void Session::Reserve(int64_t tokens) {
  const int64_t needed = CeilDiv<int64_t>(tokens, kTokensPerPage);
  const int64_t have = cache_ ? cache_->num_pages() : 0;
  if (needed <= have) return;
  // Doubling keeps the copies of a long generation linear in its length.
  const int64_t limit = CeilDiv<int64_t>(max_context_, kTokensPerPage);
  const int64_t grown = std::min(limit, std::max(needed, 2 * have));
  KvCache bigger(backend_, model_.config, model_.quant.arithmetic.kv, model_.config.num_layers,
                 grown);
  if (cache_)
    for (size_t i = 0; i < bigger.layers().size(); ++i)
      backend_.Copy(cache_->layers()[i].pages, bigger.layers()[i].pages.Rows(0, have));
  cache_.emplace(std::move(bigger));
  pages_.resize(static_cast<size_t>(grown));
  std::iota(pages_.begin(), pages_.end(), 0);
}

Tensor Session::Append(std::span<const int32_t> ids) {
  FIREQ_CHECK(!ids.empty(), kInvalidArgument, "no tokens to run: the prompt is empty");
  const int64_t total = static_cast<int64_t>(ids_.size() + ids.size());
  FIREQ_CHECK(total <= max_context_, kInvalidArgument, "a context of ", total,
              " tokens exceeds the limit of ", max_context_);
  for (size_t i = 0; i < ids.size(); ++i)
    FIREQ_CHECK(ids[i] >= 0 && ids[i] < model_.config.vocab_size, kInvalidArgument, "token id ",
                ids[i], " at place ", i, " is outside the vocabulary of ",
                model_.config.vocab_size);
  if (options_.followers != nullptr) options_.followers->Append(ids);
  try {
    return RunChecked(ids);
  } catch (...) {
    if (options_.followers != nullptr) options_.followers->Fail();
    throw;
  }
}

Tensor Session::RunChecked(std::span<const int32_t> ids) {
  Reserve(static_cast<int64_t>(ids_.size() + ids.size()));
  Tensor logits;
  while (!ids.empty()) {
    const size_t count = std::min(ids.size(), static_cast<size_t>(options_.prefill_chunk));
    logits = Step(ids.first(count), count == ids.size());
    ids = ids.subspan(count);
  }
  return logits;
}

Tensor Session::Step(std::span<const int32_t> ids, bool want_logits) {
  const int64_t count = static_cast<int64_t>(ids.size());
  if (!buffers_ || buffers_->max_tokens() < count) buffers_.emplace(context_, count);
  const SequenceStep step{ids, static_cast<int64_t>(ids_.size()), pages_};
  const BatchView batch = MakeBatch(backend_, {&step, 1});
  const bool all = want_logits && count == 1;
  WantedRows wanted;
  if (want_logits && !all) {
    wanted.rows = backend_.Upload(
        Tensor::FromVector(DType::kI32, {1}, std::vector{static_cast<int32_t>(count - 1)}));
    wanted.hidden = backend_.Allocate(context_.border(), {1, model_.config.hidden});
  }
  const Tensor hidden = ForwardHidden(context_, *buffers_, model_.weights, batch, cache_->layers(),
                                      all ? nullptr : &wanted);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  if (!want_logits) return {};
  return backend_.Download(ForwardLogits(context_, model_.weights, hidden));
}

void Session::Truncate(int64_t length) {
  FIREQ_CHECK(length >= 0 && length <= static_cast<int64_t>(ids_.size()), kInvalidArgument,
              "truncating ", ids_.size(), " tokens to ", length);
  if (options_.followers != nullptr) options_.followers->Truncate(length);
  ids_.resize(static_cast<size_t>(length));
}

}  // namespace fireq
