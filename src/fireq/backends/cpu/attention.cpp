// Online softmax over the pages of the cache, one page (64 keys) at a time, for blocks of query
// rows: the heads of one KV head's group times consecutive tokens.
#include "fireq/backends/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <type_traits>
#include <vector>

namespace fireq::cpu {
namespace {

constexpr int64_t kBlockRows = 96;    // rows of Q that one unpacked page serves
constexpr int64_t kWantedTasks = 16;  // long contexts are split until there are so many
constexpr int64_t kDigitRows = 8;     // up to as many rows do not repay unpacking a page
constexpr int64_t kMinSplitPages = 4;
constexpr int64_t kInvariantSplitPages = 16;  // where a batch may not decide

// Query tokens [token, token + count) of a sequence, one KV head, pages [page, page_end).
struct Task {
  int64_t sequence = 0;
  int64_t kv_head = 0;
  int64_t token = 0;
  int64_t count = 0;
  int64_t page = 0;
  int64_t page_end = 0;
  int64_t partial = -1;  // first row of the partial results, or -1: write the output
};

// Pages of one (sequence, KV head, query block) were given to `splits` tasks.
struct Merge {
  Task task;
  int64_t splits = 0;
};

// The rows of Q of a task.
template <class T>
struct QueryRows {
  const T* operands;
  const std::vector<DigitRow>& digits;  // empty: pages are unpacked for `operands`
  const std::vector<float>& scale;
  const std::vector<float>& sum;
};

// Running state of one row, and the power of two r of the V scales seen.
struct RowState {
  SoftmaxRow softmax{-1e30f, 0.0f, 0.0f};
  float value_range = 0.0f;
};

float PowerOfTwoAbove(float x) {
  int exponent = 0;
  const float mantissa = std::frexp(x, &exponent);
  return std::ldexp(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
}

// One page's scales and zero points as FP32.
struct PageScales {
  alignas(64) float key_scale[kPageTokens];
  alignas(64) float key_zero[kPageTokens];
  alignas(64) float value_scale[kPageTokens];
  alignas(64) float value_zero[kPageTokens];
  // Largest finite |s_v| of the keys up to this one, rounded up to a power of two. A row's P' is
  // rounded by what the row sees, whatever later keys its block sees.
  float value_range[kPageTokens];
  float page_range() const { return value_range[kPageTokens - 1]; }
};

template <class T>
class AttentionRun {
 public:
  AttentionRun(Context& context, const GemmKernels<T>& kernels, const AttentionArgs& args)
      : context_(context),
        kernels_(kernels),
        args_(args),
        batch_(*args.batch),
        layout_(args.kv.layout),
        dim_(layout_.head_dim),
        width_(AlignUp<int64_t>(dim_, kPanelColumns)),
        group_(args.num_heads / layout_.kv_heads),
        block_tokens_(std::max<int64_t>(1, kBlockRows / group_)),
        in_digits_(context.digits != nullptr && args.q.values.dtype() == DType::kE4M3 &&
                   args.e4m3_probs && layout_.grid != KvGrid::kFloat && dim_ % kBlockK == 0 &&
                   args.reduction == Reduction::kFastest) {}

  void Run() {
    MakeTasks();
    states_.resize(static_cast<size_t>(num_partials_));
    partials_ = context_.partials.Get<float>(num_partials_ * width_);
    context_.pool.ParallelFor(static_cast<int64_t>(tasks_.size()), 1,
                              [&](int64_t begin, int64_t end, int thread) {
                                for (int64_t i = begin; i < end; ++i) {
                                  RunTask(tasks_[static_cast<size_t>(i)], thread);
                                }
                              });
    for (const Merge& merge : merges_) RunMerge(merge);
  }

 private:
  int64_t Start(int64_t s) const { return batch_.query_start.as<int32_t>()[s]; }
  int64_t ContextLen(int64_t s) const { return batch_.context_len.as<int32_t>()[s]; }
  // Keys that token `t` of sequence s sees.
  int64_t Limit(int64_t s, int64_t t) const { return ContextLen(s) - (Start(s + 1) - t) + 1; }

  void MakeTasks() {
    int64_t blocks = 0;
    for (int64_t s = 0; s < batch_.num_sequences; ++s) {
      blocks += CeilDiv(Start(s + 1) - Start(s), block_tokens_) * layout_.kv_heads;
    }
    const int64_t wanted = blocks == 0 ? 1 : CeilDiv(kWantedTasks, blocks);
    for (int64_t s = 0; s < batch_.num_sequences; ++s) {
      for (int64_t t = Start(s); t < Start(s + 1); t += block_tokens_) {
        const int64_t count = std::min(block_tokens_, Start(s + 1) - t);
        const int64_t pages = CeilDiv<int64_t>(Limit(s, t + count - 1), kPageTokens);
        const int64_t each = args_.reduction == Reduction::kBatchInvariant
                                 ? kInvariantSplitPages
                                 : std::max(kMinSplitPages, CeilDiv(pages, wanted));
        for (int64_t h = 0; h < layout_.kv_heads; ++h) AddTasks({s, h, t, count}, pages, each);
      }
    }
    // Long tasks first, so that the threads end together.
    std::stable_sort(tasks_.begin(), tasks_.end(), [](const Task& a, const Task& b) {
      return (a.page_end - a.page) * a.count > (b.page_end - b.page) * b.count;
    });
  }

  void AddTasks(Task task, int64_t pages, int64_t each) {
    if (pages <= each) {
      task.page_end = pages;
      tasks_.push_back(task);
      return;
    }
    task.partial = num_partials_;
    merges_.push_back({task, CeilDiv(pages, each)});
    for (int64_t page = 0; page < pages; page += each) {
      task.page = page;
      task.page_end = std::min(page + each, pages);
      task.partial = num_partials_;
      tasks_.push_back(task);
      num_partials_ += task.count * group_;
    }
  }

  void RunTask(const Task& task, int thread) {
    ThreadScratch& scratch = context_.threads[static_cast<size_t>(thread)];
    const int64_t rows = task.count * group_;
    T* query = scratch.query.Get<T>(rows * dim_);
    float* sums = scratch.rows.Get<float>(rows * width_);
    std::fill(sums, sums + rows * width_, 0.0f);
    std::vector<RowState> states(static_cast<size_t>(rows));
    std::vector<float> query_scale(static_cast<size_t>(rows));
    std::vector<float> query_sum(static_cast<size_t>(rows));
    const bool digits = in_digits_ && rows <= kDigitRows;
    const std::vector<DigitRow> query_digits =
        digits ? LoadDigits(task, rows, scratch) : std::vector<DigitRow>();
    for (int64_t r = 0; r < rows; ++r) {
      LoadQuery(task, r, query + r * dim_, query_scale[static_cast<size_t>(r)],
                query_sum[static_cast<size_t>(r)]);
    }
    for (int64_t page = task.page; page < task.page_end; ++page) {
      RunPage(task, page, {query, query_digits, query_scale, query_sum}, sums, states, scratch);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const RowState& state = states[static_cast<size_t>(r)];
      if (task.partial < 0) {
        Finish(task, r, sums + r * width_, state);
      } else {
        states_[static_cast<size_t>(task.partial + r)] = state;
        std::copy(sums + r * width_, sums + (r + 1) * width_,
                  partials_ + (task.partial + r) * width_);
      }
    }
  }

  // Row r is head r % group of token r / group.
  int64_t Token(const Task& task, int64_t r) const { return task.token + r / group_; }
  int64_t Head(const Task& task, int64_t r) const { return task.kv_head * group_ + r % group_; }

  void LoadQuery(const Task& task, int64_t r, T* out, float& scale, float& sum) {
    const int64_t row = Token(task, r) * args_.num_heads + Head(task, r);
    scale = std::numbers::log2e_v<float> / std::sqrt(static_cast<float>(dim_));
    float values[512];
    if (args_.q.values.dtype() == DType::kE4M3) {
      context_.rows.e4m3_to_f32(args_.q.values.as<e4m3_t>() + row * dim_, dim_, values);
      scale *= args_.q.scale.as<float>()[row];
    } else {
      std::memcpy(values, args_.q.values.as<float>() + row * dim_, dim_ * sizeof(float));
    }
    sum = 0.0f;
    for (int64_t d = 0; d < dim_; ++d) sum += values[d];
    kernels_.order_query(values, dim_, out);
  }

  std::vector<DigitRow> LoadDigits(const Task& task, int64_t rows, ThreadScratch& scratch) {
    auto* bytes = scratch.digits.Get<int8_t>(rows * DigitRow::SizeBytes(dim_));
    std::vector<DigitRow> out;
    for (int64_t r = 0; r < rows; ++r) {
      out.push_back(DigitRow::In(bytes + r * DigitRow::SizeBytes(dim_), dim_));
      const int64_t row = Token(task, r) * args_.num_heads + Head(task, r);
      context_.digits->load(args_.q.values.as<e4m3_t>() + row * dim_, dim_, dim_, DigitOrder::kRuns,
                            out.back());
    }
    return out;
  }

  void RunPage(const Task& task, int64_t page, const QueryRows<T>& queries, float* sums,
               std::vector<RowState>& states, ThreadScratch& scratch) {
    const int64_t rows = task.count * group_;
    T* k_panel = scratch.panel.Get<T>(2 * width_ * kPageTokens);
    T* v_panels = k_panel + width_ * kPageTokens;
    PageScales scales;
    const int64_t first = page * kPageTokens;
    const int64_t last_limit = Limit(task.sequence, task.token + task.count - 1);
    const int64_t num_keys = std::min(kPageTokens, last_limit - first);
    const uint8_t* block = HeadBlock(task, page);
    float* scores = scratch.sums.Get<float>(rows * kPageTokens);
    T* probs = scratch.probs.Get<T>(rows * kPageTokens);
    const bool digits = !queries.digits.empty();
    if (digits) {
      LoadScales(block, num_keys, scales);
      for (int64_t r = 0; r < rows; ++r) {
        context_.digits->scores(block, num_keys, dim_, queries.digits[static_cast<size_t>(r)],
                                scores + r * kPageTokens);
      }
    } else {
      LoadPage(block, num_keys, k_panel, v_panels, scales);
      kernels_.panel(queries.operands, dim_, k_panel, dim_, rows, scores, kPageTokens, false);
    }
    SoftmaxTile tile{};
    SetScales(scales, tile);
    for (int64_t r = 0; r < rows; ++r) {
      float* s = scores + r * kPageTokens;
      tile.num_keys = std::min(kPageTokens, Limit(task.sequence, Token(task, r)) - first);
      if (tile.num_keys <= 0) {
        std::fill(s, s + kPageTokens, 0.0f);
      } else {
        tile.query_scale = queries.scale[static_cast<size_t>(r)];
        tile.query_sum = queries.sum[static_cast<size_t>(r)];
        SoftmaxPage(tile, scales, s, states[static_cast<size_t>(r)], sums + r * width_);
      }
      if (digits) {
        context_.digits->values(block + layout_.v_offset(), dim_, s, sums + r * width_);
      } else {
        kernels_.pack_probs(s, probs + r * kPageTokens);
      }
    }
    if (digits) return;
    for (int64_t d = 0; d < width_; d += kPanelColumns) {
      kernels_.panel(probs, kPageTokens, v_panels + d * kPageTokens, kPageTokens, rows, sums + d,
                     width_, true);
    }
  }

  void SetScales(const PageScales& scales, SoftmaxTile& tile) const {
    const bool quantized = layout_.grid != KvGrid::kFloat;
    tile.key_scale = quantized ? scales.key_scale : nullptr;
    tile.key_zero = quantized ? scales.key_zero : nullptr;
    tile.value_zero = quantized ? scales.value_zero : nullptr;
    tile.round_probs = args_.e4m3_probs;
  }

  // One row: scores to P', earlier sums to the new maximum and the new r.
  void SoftmaxPage(SoftmaxTile& tile, const PageScales& scales, float* s, RowState& state,
                   float* sums) {
    const float range = std::max(state.value_range, scales.value_range[tile.num_keys - 1]);
    const float shrink = state.value_range == 0.0f ? 1.0f : state.value_range / range;
    alignas(64) float value_scale[kPageTokens];
    const float* scaled = scales.value_scale;
    if (range != scales.page_range()) {
      std::copy(scales.value_scale, scales.value_scale + kPageTokens, value_scale);
      context_.rows.scale(value_scale, kPageTokens, scales.page_range() / range);
      scaled = value_scale;
    }
    tile.value_scale = scaled;
    state.value_range = range;
    state.softmax.zeros *= shrink;
    const float rescale = context_.rows.softmax(s, tile, &state.softmax) * shrink;
    if (rescale != 1.0f) context_.rows.scale(sums, width_, rescale);
  }

  const uint8_t* HeadBlock(const Task& task, int64_t page) const {
    const Tensor& table = batch_.page_table;
    const int64_t number = table.as<int32_t>()[task.sequence * table.dim(1) + page];
    return args_.kv.pages.as<uint8_t>() + number * layout_.page_bytes() +
           layout_.head_offset(static_cast<int>(task.kv_head));
  }

  // Panels and scales of the first `num_keys` keys of a page; the rest is masked by the softmax,
  // and zeroed where a float page could hold NaN.
  void LoadPage(const uint8_t* block, int64_t num_keys, T* k_panel, T* v_panels,
                PageScales& scales) {
    if (layout_.grid == KvGrid::kFloat) {
      LoadFloatPage(block, num_keys, k_panel, v_panels, scales);
      return;
    }
    kernels_.unpack_k(block, dim_, k_panel);
    kernels_.unpack_v(block + layout_.v_offset(), dim_, v_panels);
    LoadScales(block, num_keys, scales);
  }

  void LoadScales(const uint8_t* block, int64_t num_keys, PageScales& scales) const {
    float largest = 0.0f;
    float range = 1.0f;
    for (int i = 0; i < kPageTokens; ++i) {
      const bool valid = i < num_keys;
      const KvScale k = GetKvScale(block, layout_.k_scale_offset(), layout_.k_zero_offset(), i);
      const KvScale v = GetKvScale(block, layout_.v_scale_offset(), layout_.v_zero_offset(), i);
      scales.key_scale[i] = valid ? Bf16ToFloat(k.scale) : 0.0f;
      scales.key_zero[i] = valid ? k.zero : 0.0f;
      scales.value_scale[i] = valid ? Bf16ToFloat(v.scale) : 0.0f;
      scales.value_zero[i] = valid ? v.zero : 0.0f;
      const float magnitude = std::abs(scales.value_scale[i]);
      if (std::isfinite(magnitude) && magnitude > largest) {
        largest = magnitude;
        range = PowerOfTwoAbove(magnitude);
      }
      scales.value_range[i] = range;
    }
    for (float& s : scales.value_scale) s *= 256.0f / scales.page_range();
  }

  void LoadFloatPage(const uint8_t* block, int64_t num_keys, T* k_panel, T* v_panels,
                     PageScales& scales) {
    if constexpr (std::is_same_v<T, float>) {
      const auto* k = reinterpret_cast<const float*>(block);
      const auto* v = reinterpret_cast<const float*>(block + layout_.v_offset());
      for (int64_t key = 0; key < kPageTokens; ++key) {
        for (int64_t d = 0; d < dim_; ++d) {
          const bool valid = key < num_keys;
          k_panel[d * kPanelColumns + key] = valid ? k[key * dim_ + d] : 0.0f;
          v_panels[d / kPanelColumns * kPageTokens * kPanelColumns + key * kPanelColumns +
                   d % kPanelColumns] = valid ? v[key * dim_ + d] : 0.0f;
        }
      }
    }
    std::fill(scales.value_range, scales.value_range + kPageTokens, 1.0f);
    std::fill(scales.value_scale, scales.value_scale + kPageTokens, 256.0f);
  }

  void Finish(const Task& task, int64_t r, float* sums, const RowState& state) {
    const SoftmaxRow& s = state.softmax;
    const float scale = s.sum == 0.0f ? 0.0f : state.value_range / (256.0f * s.sum);
    context_.rows.shift_scale(sums, dim_, s.zeros, scale, sums);
    StoreBorderRow(context_, sums, dim_, args_.out,
                   Token(task, r) * args_.num_heads + Head(task, r));
  }

  // Partial results in the order of their pages, whatever thread made them.
  void RunMerge(const Merge& merge) {
    const int64_t rows = merge.task.count * group_;
    for (int64_t r = 0; r < rows; ++r) {
      RowState total = states_[static_cast<size_t>(merge.task.partial + r)];
      float* sums = partials_ + (merge.task.partial + r) * width_;
      for (int64_t i = 1; i < merge.splits; ++i) {
        const int64_t at = merge.task.partial + i * rows + r;
        Combine(total, sums, states_[static_cast<size_t>(at)], partials_ + at * width_);
      }
      Finish(merge.task, r, sums, total);
    }
  }

  void Combine(RowState& a, float* a_sums, const RowState& b, const float* b_sums) const {
    if (b.value_range == 0.0f) return;  // the row sees none of these keys
    const float max = std::max(a.softmax.max, b.softmax.max);
    const float range = std::max(a.value_range, b.value_range);
    const float a_scale = std::exp2(std::max(a.softmax.max - max, -200.0f));
    const float b_scale = std::exp2(std::max(b.softmax.max - max, -200.0f));
    const float a_range = a_scale * (a.value_range / range);
    const float b_range = b_scale * (b.value_range / range);
    for (int64_t d = 0; d < dim_; ++d) a_sums[d] = a_sums[d] * a_range + b_sums[d] * b_range;
    a.softmax.sum = a.softmax.sum * a_scale + b.softmax.sum * b_scale;
    a.softmax.zeros = a.softmax.zeros * a_range + b.softmax.zeros * b_range;
    a.softmax.max = max;
    a.value_range = range;
  }

  Context& context_;
  const GemmKernels<T>& kernels_;
  const AttentionArgs& args_;
  const BatchView& batch_;
  const KvPageLayout layout_;
  const int64_t dim_;
  const int64_t width_;  // dim_ padded to whole panels
  const int64_t group_;
  const int64_t block_tokens_;
  const bool in_digits_;  // codes as integers where rows are few
  std::vector<Task> tasks_;
  std::vector<Merge> merges_;
  std::vector<RowState> states_;
  float* partials_ = nullptr;
  int64_t num_partials_ = 0;
};

}  // namespace

void RunAttention(Context& context, const AttentionArgs& args) {
  if (args.batch->num_tokens == 0) return;
  const bool exact_in_bf16 = args.q.values.dtype() == DType::kE4M3 && args.e4m3_probs &&
                             args.kv.layout.grid != KvGrid::kFloat;
  if (context.bf16 != nullptr && exact_in_bf16) {
    AttentionRun<bf16_t>(context, *context.bf16, args).Run();
  } else {
    AttentionRun<float>(context, context.f32, args).Run();
  }
}

}  // namespace fireq::cpu
