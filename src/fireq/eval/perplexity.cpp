#include "fireq/eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

#include "fireq/base/math.h"
#include "fireq/base/thread_pool.h"
#include "fireq/eval/logit_stats.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"

namespace fireq {
namespace {

// Rows of logits held at once: 256 x 128k vocabulary x 4 bytes is 128 MiB.
constexpr int64_t kLogitRows = 256;

// One model evaluated window by window.
class WindowRunner {
 public:
  WindowRunner(const LoadedModel& loaded, int64_t context, const PerplexityOptions& options)
      : backend_(*loaded.backend),
        model_(*loaded.model),
        context_(MakeContext(backend_, model_, context, options.products)),
        chunk_(options.chunk > 0 ? std::min(options.chunk, context) : context),
        buffers_(context_, chunk_),
        pages_(static_cast<size_t>(CeilDiv<int64_t>(context, kTokensPerPage))),
        cache_(backend_, model_.config, model_.quant.arithmetic.kv, model_.config.num_layers,
               static_cast<int64_t>(pages_.size())),
        hidden_(backend_.Allocate(context_.border(), {context, model_.config.hidden})) {
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
        backend_.Download(ForwardLogits(context_, model_.weights, hidden_.Rows(begin, end)));
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
};

Moments MomentsOf(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0.0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0};
}

// What every position contributes.
struct Samples {
  std::vector<double> losses;  // one a target
  std::vector<double> kl;      // one a position, with a reference
  std::vector<double> agrees;  // 1 or 0 a position, with a reference

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
      kl.resize(kl_at + static_cast<size_t>(rows));
      agrees.resize(kl_at + static_cast<size_t>(rows));
    }
    pool.ParallelFor(rows, 8, [&](int64_t from, int64_t to, int) {
      for (int64_t row = from; row < to; ++row) {
        const float* q = logits.as<float>() + row * vocab;
        const double q_lse = LogSumExp(q, vocab);
        if (row < targets)
          losses[loss_at + static_cast<size_t>(row)] =
              q_lse - q[window[static_cast<size_t>(begin + row + 1)]];
        if (!reference.defined()) continue;
        const float* p = reference.as<float>() + row * vocab;
        const size_t at = kl_at + static_cast<size_t>(row);
        kl[at] = KlDivergence(p, LogSumExp(p, vocab), q, q_lse, vocab);
        agrees[at] = ArgMax(p, vocab) == ArgMax(q, vocab) ? 1.0 : 0.0;
      }
    });
  }

  PerplexityResult Summary() const {
    PerplexityResult out;
    const Moments loss = MomentsOf(losses);
    out.perplexity = std::exp(loss.mean);
    out.perplexity_stderr = out.perplexity * loss.standard_error;
    if (!kl.empty()) {
      const Moments distance = MomentsOf(kl);
      const Moments agreement = MomentsOf(agrees);
      std::vector<double> sorted = kl;
      const size_t at = static_cast<size_t>(0.99 * static_cast<double>(sorted.size() - 1));
      std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(at), sorted.end());
      out.distance = {distance.mean, distance.standard_error, sorted[at], agreement.mean,
                      agreement.standard_error};
    }
    return out;
  }
};

}  // namespace

PerplexityResult EvaluatePerplexity(const LoadedModel& model, std::span<const int32_t> ids,
                                    const PerplexityOptions& options,
                                    const LoadedModel& reference) {
  const int64_t context = options.context;
  FIREQ_CHECK(context >= 2, kInvalidArgument, "context must be at least 2 tokens, got ", context);
  FIREQ_CHECK(options.max_tokens >= 0, kInvalidArgument, "max tokens must be >= 0, got ",
              options.max_tokens);
  FIREQ_CHECK(options.chunk >= 0, kInvalidArgument, "chunk must be >= 0, got ", options.chunk);
  int64_t available = static_cast<int64_t>(ids.size());
  if (options.max_tokens > 0) available = std::min(available, options.max_tokens);
  const int64_t windows = available / context;
  FIREQ_CHECK(windows > 0, kInvalidArgument, "text of ", available,
              " tokens does not fill one window of ", context);
  if (reference.model != nullptr)
    FIREQ_CHECK(reference.model->config.vocab_size == model.model->config.vocab_size,
                kInvalidArgument, "reference has a vocabulary of ",
                reference.model->config.vocab_size, ", the model of ",
                model.model->config.vocab_size);

  WindowRunner runner(model, context, options);
  std::optional<WindowRunner> reference_runner;
  if (reference.model != nullptr) reference_runner.emplace(reference, context, options);
  ThreadPool pool;
  Samples samples;
  double loss_sum = 0.0;
  for (int64_t w = 0; w < windows; ++w) {
    const auto window = ids.subspan(static_cast<size_t>(w * context), static_cast<size_t>(context));
    runner.Run(window);
    if (reference_runner) reference_runner->Run(window);
    for (int64_t begin = 0; begin < context; begin += kLogitRows) {
      const int64_t end = std::min(context, begin + kLogitRows);
      samples.AddRows(window, begin, runner.Logits(begin, end),
                      reference_runner ? reference_runner->Logits(begin, end) : Tensor(), pool);
    }
    if (options.progress) {
      const size_t done = samples.losses.size();
      loss_sum =
          std::accumulate(samples.losses.end() - (context - 1), samples.losses.end(), loss_sum);
      options.progress((w + 1) * context, windows * context,
                       std::exp(loss_sum / static_cast<double>(done)));
    }
  }
  PerplexityResult result = samples.Summary();
  result.tokens = windows * context;
  result.seconds = runner.seconds();
  result.tokens_per_second = static_cast<double>(result.tokens) / result.seconds;
  return result;
}

}  // namespace fireq
