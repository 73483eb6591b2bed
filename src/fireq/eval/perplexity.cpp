#include "fireq/eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <numeric>
#include <vector>

#include "fireq/base/math.h"
#include "fireq/base/thread_pool.h"
#include "fireq/eval/logit_stats.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"

namespace fireq {
namespace {

// One model evaluated window by window.
class WindowRunner {
 public:
  WindowRunner(const LoadedModel& loaded, const PerplexityOptions& options, Products products)
      : backend_(*loaded.backend),
        model_(*loaded.model),
        context_(MakeContext(backend_, model_, options.context, products)),
        chunk_(options.chunk > 0 ? std::min(options.chunk, options.context) : options.context),
        buffers_(context_, chunk_),
        pages_(static_cast<size_t>(CeilDiv<int64_t>(options.context, kTokensPerPage))),
        cache_(backend_, model_.config, model_.quant.arithmetic.kv, model_.config.num_layers,
               static_cast<int64_t>(pages_.size())),
        hidden_(backend_.Allocate(context_.border(), {options.context, model_.config.hidden})) {
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  void Run(std::span<const int32_t> ids) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t length = static_cast<int64_t>(ids.size());
    for (int64_t begin = 0; begin < length; begin += chunk_) {
      const int64_t count = std::min(chunk_, length - begin);
      const SequenceStep step{ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                              begin, pages_};
      const Tensor hidden = ForwardHidden(context_, buffers_, model_.weights,
                                          MakeBatch(backend_, {&step, 1}), cache_.layers());
      backend_.Copy(hidden, hidden_.Rows(begin, begin + count));
    }
    backend_.Synchronize();
    AddTime(start);
  }

  Tensor Logits(int64_t begin, int64_t end) {
    const auto start = std::chrono::steady_clock::now();
    Tensor out =
        backend_.StartDownload(ForwardLogits(context_, model_.weights, hidden_.Rows(begin, end)))
            ->Wait();
    AddTime(start);
    return out;
  }

  double seconds() const { return seconds_; }

 private:
  void AddTime(std::chrono::steady_clock::time_point start) {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  Backend& backend_;
  const Model& model_;
  ForwardContext context_;
  int64_t chunk_;
  ForwardBuffers buffers_;
  std::vector<int32_t> pages_;
  KvCache cache_;
  Tensor hidden_;
  double seconds_ = 0.0;
};

struct Moments {
  double mean = 0.0;
  double standard_error = 0.0;

  double perplexity() const { return std::exp(mean); }
  double perplexity_stderr() const { return perplexity() * standard_error; }
};

Moments MomentsOf(std::span<const double> values) {
  const double n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0.0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0};
}

// What every position contributes.
struct Samples {
  std::vector<double> losses;            // one a target
  std::vector<double> reference_losses;  // with a reference
  std::vector<double> kl;                // one a position, with a reference
  std::vector<double> agrees;            // 1 or 0 a position, with a reference

  void AddRows(std::span<const int32_t> window, int64_t begin, const Tensor& logits,
               const Tensor& reference, ThreadPool& pool) {
    const int64_t rows = logits.dim(0);
    const int64_t vocab = logits.dim(1);
    const int64_t targets =
        std::min<int64_t>(rows, static_cast<int64_t>(window.size()) - 1 - begin);
    const size_t loss_at = losses.size();
    const size_t kl_at = kl.size();
    losses.resize(loss_at + static_cast<size_t>(targets));
    if (reference.defined()) {
      reference_losses.resize(losses.size());
      kl.resize(kl_at + static_cast<size_t>(rows));
      agrees.resize(kl_at + static_cast<size_t>(rows));
    }
    pool.ParallelFor(rows, 8, [&](int64_t from, int64_t to, int) {
      for (int64_t row = from; row < to; ++row) {
        const float* q = logits.as<float>() + row * vocab;
        const double q_lse = LogSumExp(q, vocab);
        const auto loss = [&](double lse, const float* logits_of_row) {
          return lse - logits_of_row[window[static_cast<size_t>(begin + row + 1)]];
        };
        const size_t target = loss_at + static_cast<size_t>(row);
        if (row < targets) losses[target] = loss(q_lse, q);
        if (!reference.defined()) continue;
        const float* p = reference.as<float>() + row * vocab;
        const double p_lse = LogSumExp(p, vocab);
        if (row < targets) reference_losses[target] = loss(p_lse, p);
        const size_t at = kl_at + static_cast<size_t>(row);
        kl[at] = KlDivergence(p, p_lse, q, q_lse, vocab);
        agrees[at] = ArgMax(p, vocab) == ArgMax(q, vocab) ? 1.0 : 0.0;
      }
    });
  }

  PerplexityResult Summary(int64_t context) const {
    PerplexityResult out;
    const Moments loss = MomentsOf(losses);
    out.perplexity = loss.perplexity();
    out.perplexity_stderr = loss.perplexity_stderr();
    if (!kl.empty()) out.distance = DistanceFromReference(context);
    return out;
  }

 private:
  PerplexityResult::Distance DistanceFromReference(int64_t context) const {
    const Moments divergence = MomentsOf(kl), agreement = MomentsOf(agrees),
                  loss = MomentsOf(reference_losses);
    std::vector<double> sorted = kl;
    const size_t at = static_cast<size_t>(0.99 * static_cast<double>(sorted.size() - 1));
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(at), sorted.end());
    return {.kl_mean = divergence.mean,
            .kl_stderr = divergence.standard_error,
            .kl_p99 = sorted[at],
            .top1_agreement = agreement.mean,
            .top1_stderr = agreement.standard_error,
            .reference_perplexity = loss.perplexity(),
            .reference_perplexity_stderr = loss.perplexity_stderr(),
            .kl_along_window = KlAlongWindow(context)};
  }

  std::vector<double> KlAlongWindow(int64_t context) const {
    const int64_t part = CeilDiv<int64_t>(context, 16);
    std::vector<double> sums(static_cast<size_t>(CeilDiv(context, part)));
    std::vector<double> counts(sums.size());
    for (size_t i = 0; i < kl.size(); ++i) {
      const size_t at = i % static_cast<size_t>(context) / static_cast<size_t>(part);
      sums[at] += kl[i];
      counts[at] += 1.0;
    }
    for (size_t i = 0; i < sums.size(); ++i) sums[i] /= counts[i];
    return sums;
  }
};

int64_t CheckedWindows(std::span<const int32_t> ids, const PerplexityOptions& options) {
  FIREQ_CHECK(options.context >= 2, kInvalidArgument, "context must be at least 2 tokens, got ",
              options.context);
  FIREQ_CHECK(options.max_tokens >= 0, kInvalidArgument, "max tokens must be >= 0, got ",
              options.max_tokens);
  FIREQ_CHECK(options.chunk >= 0, kInvalidArgument, "chunk must be >= 0, got ", options.chunk);
  int64_t available = std::ssize(ids);
  if (options.max_tokens > 0) available = std::min(available, options.max_tokens);
  FIREQ_CHECK(available >= options.context, kInvalidArgument, "text of ", available,
              " tokens does not fill one window of ", options.context);
  return available / options.context;
}

}  // namespace

PerplexityResult EvaluatePerplexity(const LoadedModel& model, std::span<const int32_t> ids,
                                    const PerplexityOptions& options,
                                    const LoadedModel& reference) {
  return EvaluatePerplexity(model, ids, options, reference, {&options.products, 1}).front();
}

std::vector<PerplexityResult> EvaluatePerplexity(const LoadedModel& model,
                                                 std::span<const int32_t> ids,
                                                 const PerplexityOptions& options,
                                                 const LoadedModel& reference,
                                                 std::span<const Products> products) {
  const int64_t context = options.context;
  const int64_t windows = CheckedWindows(ids, options);
  if (reference.model != nullptr)
    FIREQ_CHECK(reference.model->config.vocab_size == model.model->config.vocab_size,
                kInvalidArgument, "reference has a vocabulary of ",
                reference.model->config.vocab_size, ", the model of ",
                model.model->config.vocab_size);

  std::deque<WindowRunner> runners;
  for (const Products each : products) runners.emplace_back(model, options, each);
  std::optional<WindowRunner> reference_runner;
  if (reference.model != nullptr) reference_runner.emplace(reference, options, options.products);
  std::vector<Samples> samples(runners.size());
  ThreadPool pool(options.num_threads);
  double loss_sum = 0.0;
  for (int64_t w = 0; w < windows; ++w) {
    const auto window = ids.subspan(static_cast<size_t>(w * context), static_cast<size_t>(context));
    for (WindowRunner& runner : runners) runner.Run(window);
    if (reference_runner) reference_runner->Run(window);
    for (int64_t begin = 0; begin < context; begin += kLogitRows) {
      const int64_t end = std::min(context, begin + kLogitRows);
      const Tensor expected = reference_runner ? reference_runner->Logits(begin, end) : Tensor();
      for (size_t i = 0; i < samples.size(); ++i)
        samples[i].AddRows(window, begin, runners[i].Logits(begin, end), expected, pool);
    }
    if (options.progress) {
      const std::vector<double>& losses = samples.front().losses;
      loss_sum = std::accumulate(losses.end() - (context - 1), losses.end(), loss_sum);
      options.progress((w + 1) * context, windows * context,
                       std::exp(loss_sum / static_cast<double>(losses.size())));
    }
  }
  std::vector<PerplexityResult> results;
  for (size_t i = 0; i < samples.size(); ++i) {
    PerplexityResult& result = results.emplace_back(samples[i].Summary(context));
    result.tokens = windows * context;
    result.seconds = runners[i].seconds();
    result.tokens_per_second = static_cast<double>(result.tokens) / result.seconds;
  }
  return results;
}

}  // namespace fireq
