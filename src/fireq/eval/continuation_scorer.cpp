#include "fireq/eval/continuation_scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fireq/base/math.h"
#include "fireq/eval/logit_stats.h"
#include "fireq/model/batch.h"

namespace fireq {
namespace {

constexpr int64_t kStepTokens = 1024;  // of a forward pass, at most
// Pages of the cache that a batch may fill: half a GiB where a page of all layers takes 4 MiB.
constexpr int64_t kBatchPages = 128;

int64_t SizeOf(std::span<const int32_t> ids) { return static_cast<int64_t>(ids.size()); }

int64_t PagesFor(int64_t tokens) { return CeilDiv<int64_t>(tokens, kTokensPerPage); }

}  // namespace

// A continuation as it is run.
struct ContinuationScorer::Branch {
  std::span<const int32_t> ids;  // what the context has room for, and one more: the last target
  int64_t scored;
  ContinuationScore* score;
};

// A group: `shared` tokens that are run once, then the rest of each branch.
struct ContinuationScorer::Plan {
  std::vector<Branch> branches;
  int64_t shared = 0;

  int64_t BranchTokens(const Branch& branch) const { return SizeOf(branch.ids) - 1 - shared; }
  // Pages of a branch that it does not read from the prefix.
  int64_t BranchPages(const Branch& branch) const {
    return PagesFor(SizeOf(branch.ids) - 1) - shared / kTokensPerPage;
  }
  int64_t tokens() const {
    int64_t total = 0;
    for (const Branch& branch : branches) total += BranchTokens(branch);
    return std::max(total, shared);
  }
  int64_t pages() const {
    int64_t total = PagesFor(shared);
    for (const Branch& branch : branches) total += BranchPages(branch);
    return total;
  }
};

// Tokens to run; the last rows of the result are scored against `targets`.
struct ContinuationScorer::Sequence {
  std::span<const int32_t> ids;
  int64_t position = 0;
  std::vector<int32_t> pages;
  std::span<const int32_t> targets;
  ContinuationScore* score = nullptr;
};

struct ContinuationScorer::Row {
  int32_t row;  // of the step
  int32_t target;
  ContinuationScore* score;
};

ContinuationScorer::ContinuationScorer(Backend& backend, const Model& model, int64_t max_context,
                                       Products products, int num_threads)
    : backend_(backend),
      model_(model),
      max_context_(max_context),
      context_(MakeContext(backend, model, max_context, products)),
      buffers_(context_, kStepTokens),
      pool_(num_threads) {}

ContinuationScorer::Plan ContinuationScorer::PlanGroup(const ContinuationGroup& group,
                                                       GroupScores& scores) const {
  Plan plan;
  for (size_t i = 0; i < group.size(); ++i) {
    const std::span<const int32_t> ids = group[i].ids;
    const int64_t scored = group[i].scored;
    FIREQ_CHECK(scored >= 1 && scored < SizeOf(ids), kInvalidArgument, "continuation of ", scored,
                " tokens in a text of ", ids.size());
    FIREQ_CHECK(scored <= max_context_, kInvalidArgument, "a continuation of ", scored,
                " tokens exceeds the context of ", max_context_);
    for (const int32_t id : ids)
      FIREQ_CHECK(id >= 0 && id < model_.config.vocab_size, kInvalidArgument, "token id ", id,
                  " is outside the vocabulary of ", model_.config.vocab_size);
    plan.branches.push_back({ids.last(std::min(ids.size(), static_cast<size_t>(max_context_ + 1))),
                             scored, &scores[i]});
  }
  if (plan.branches.size() < 2) return plan;
  const std::span<const int32_t> first = plan.branches[0].ids;
  plan.shared = SizeOf(first);
  for (const Branch& branch : plan.branches) {
    const auto common =
        std::mismatch(first.begin(), first.end(), branch.ids.begin(), branch.ids.end());
    // The token before the continuation is run in every branch: its row is scored.
    plan.shared = std::min({plan.shared, static_cast<int64_t>(common.first - first.begin()),
                            SizeOf(branch.ids) - 1 - branch.scored});
  }
  return plan;
}

std::vector<ContinuationScorer::GroupScores> ContinuationScorer::Score(
    std::span<const ContinuationGroup> groups,
    const std::function<void(int64_t groups_done)>& progress) {
  std::vector<GroupScores> scores;
  std::vector<Plan> plans;
  for (const ContinuationGroup& group : groups) scores.emplace_back(group.size());
  for (size_t i = 0; i < groups.size(); ++i) plans.push_back(PlanGroup(groups[i], scores[i]));

  std::vector<size_t> ends;  // of the batches
  int64_t tokens = 0, pages = 0, most_pages = 0;
  for (size_t i = 0; i < plans.size(); ++i) {
    tokens += plans[i].tokens();
    pages += plans[i].pages();
    if (i > 0 && (tokens > kStepTokens || pages > kBatchPages)) {
      ends.push_back(i);
      tokens = plans[i].tokens();
      pages = plans[i].pages();
    }
    most_pages = std::max(most_pages, pages);
  }
  ends.push_back(plans.size());
  if (!cache_ || cache_->num_pages() < most_pages)
    cache_.emplace(backend_, model_.config, model_.quant.arithmetic.kv, model_.config.num_layers,
                   most_pages);

  size_t begin = 0;
  for (const size_t end : ends) {
    RunBatch(std::span(plans).subspan(begin, end - begin));
    begin = end;
    if (progress) progress(static_cast<int64_t>(end));
  }
  return scores;
}

void ContinuationScorer::RunBatch(std::span<const Plan> batch) {
  std::vector<Sequence> prefixes, branches;
  std::vector<std::pair<int32_t, int32_t>> copies;
  int32_t next_page = 0;
  const auto take_pages = [&](std::vector<int32_t>& pages, int64_t count) {
    for (int64_t i = 0; i < count; ++i) pages.push_back(next_page++);
  };
  for (const Plan& plan : batch) {
    const size_t shared = static_cast<size_t>(plan.shared);
    std::vector<int32_t> prefix_pages;
    take_pages(prefix_pages, PagesFor(plan.shared));
    const int64_t full_pages = plan.shared / kTokensPerPage;
    for (const Branch& branch : plan.branches) {
      std::vector<int32_t> pages(prefix_pages.begin(), prefix_pages.begin() + full_pages);
      take_pages(pages, plan.BranchPages(branch));
      if (plan.shared % kTokensPerPage != 0)
        copies.emplace_back(prefix_pages.back(), pages[static_cast<size_t>(full_pages)]);
      branches.push_back(
          {branch.ids.subspan(shared, static_cast<size_t>(plan.BranchTokens(branch))), plan.shared,
           std::move(pages), branch.ids.last(static_cast<size_t>(branch.scored)), branch.score});
    }
    if (shared > 0)
      prefixes.push_back({plan.branches[0].ids.first(shared), 0, std::move(prefix_pages), {}, {}});
  }
  RunSequences(prefixes);
  for (const auto& [from, to] : copies) CopyPage(from, to);
  RunSequences(branches);
}

void ContinuationScorer::CopyPage(int32_t from, int32_t to) {
  for (const KvLayer& layer : cache_->layers())
    backend_.Copy(layer.pages.Rows(from, from + 1), layer.pages.Rows(to, to + 1));
}

void ContinuationScorer::RunSequences(std::span<const Sequence> sequences) {
  int64_t begin = 0;  // of the first sequence: what earlier steps have run of it
  while (!sequences.empty()) {
    std::vector<SequenceStep> steps;
    std::vector<Row> rows;
    int64_t filled = 0;
    while (!sequences.empty() && filled < kStepTokens) {
      const Sequence& sequence = sequences.front();
      const int64_t size = SizeOf(sequence.ids);
      const int64_t end = std::min(size, begin + kStepTokens - filled);
      steps.push_back(
          {sequence.ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
           sequence.position + begin, sequence.pages});
      const int64_t first_scored = size - SizeOf(sequence.targets);
      for (int64_t i = std::max(begin, first_scored); i < end; ++i)
        rows.push_back({static_cast<int32_t>(filled + i - begin),
                        sequence.targets[static_cast<size_t>(i - first_scored)], sequence.score});
      filled += end - begin;
      begin = end == size ? 0 : end;
      if (end == size) sequences = sequences.subspan(1);
    }
    const Tensor hidden = ForwardHidden(context_, buffers_, model_.weights,
                                        MakeBatch(backend_, steps), cache_->layers());
    ScoreRows(hidden, rows);
  }
}

void ContinuationScorer::ScoreRows(const Tensor& hidden, std::span<const Row> rows) {
  const int64_t vocab = model_.config.vocab_size;
  while (!rows.empty()) {
    const auto block = rows.first(std::min(rows.size(), static_cast<size_t>(kLogitRows)));
    rows = rows.subspan(block.size());
    const int64_t count = static_cast<int64_t>(block.size());
    std::vector<int32_t> numbers;
    for (const Row& row : block) numbers.push_back(row.row);
    const Tensor picked = backend_.Allocate(hidden.dtype(), {count, hidden.dim(1)});
    backend_.GatherRows(hidden, backend_.Upload(Tensor::FromVector(DType::kI32, {count}, numbers)),
                        picked);
    const Tensor logits =
        backend_.StartDownload(ForwardLogits(context_, model_.weights, picked))->Wait();

    std::vector<ContinuationScore> scores(block.size());
    pool_.ParallelFor(count, 8, [&](int64_t from, int64_t to, int) {
      for (int64_t i = from; i < to; ++i) {
        const float* row = logits.as<float>() + i * vocab;
        const int32_t target = block[static_cast<size_t>(i)].target;
        scores[static_cast<size_t>(i)] = {row[target] - LogSumExp(row, vocab),
                                          ArgMax(row, vocab) == target};
      }
    });
    for (size_t i = 0; i < block.size(); ++i) {
      FIREQ_CHECK(std::isfinite(scores[i].log_likelihood), kInternal,
                  "the log-likelihood of token ", block[i].target, " is ", scores[i].log_likelihood,
                  ": the model's weights or its inputs are broken");
      block[i].score->log_likelihood += scores[i].log_likelihood;
      block[i].score->greedy = block[i].score->greedy && scores[i].greedy;
    }
  }
}

}  // namespace fireq
