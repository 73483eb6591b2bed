#include <algorithm>
#include <cmath>
#include <vector>

#include "fireq/backends/cpu/attention.h"
#include "fireq/formats/act_e4m3.h"

namespace fireq::cpu {
namespace {

// Tokens of one sequence that share a group of 16 in the cache: one thread writes them.
struct TokenRun {
  int64_t sequence = 0;
  int64_t begin = 0;  // in the step
  int64_t end = 0;
  int64_t index = 0;  // of `begin` in the sequence
};

std::vector<TokenRun> MakeRuns(const BatchView& batch) {
  const auto* start = batch.query_start.as<int32_t>();
  const auto* context_len = batch.context_len.as<int32_t>();
  std::vector<TokenRun> runs;
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    int64_t index = context_len[s] - (start[s + 1] - start[s]);
    for (int64_t t = start[s]; t < start[s + 1];) {
      const int64_t left = kVGroupTokens - index % kVGroupTokens;
      const int64_t end = std::min<int64_t>(t + left, start[s + 1]);
      runs.push_back({s, t, end, index});
      index += end - t;
      t = end;
    }
  }
  return runs;
}

// Orthonormal Walsh-Hadamard transform of x[n], n a power of two.
void Hadamard(const RowOps& rows, float* x, int64_t n) {
  for (int64_t h = 1; h < n; h *= 2) {
    for (int64_t i = 0; i < n; i += 2 * h) {
      for (int64_t j = i; j < i + h; ++j) {
        const float a = x[j];
        const float b = x[j + h];
        x[j] = a + b;
        x[j + h] = a - b;
      }
    }
  }
  rows.scale(x, n, 1.0f / std::sqrt(static_cast<float>(n)));
}

class Writer {
 public:
  Writer(Context& context, const RopeKvWriteArgs& args)
      : context_(context),
        args_(args),
        dim_(args.kv.layout.head_dim),
        heads_(args.num_heads),
        kv_heads_(args.kv.layout.kv_heads),
        pages_(args.kv.layout) {}

  void Run() {
    const std::vector<TokenRun> runs = MakeRuns(*args_.batch);
    context_.pool.ParallelFor(static_cast<int64_t>(runs.size()), 1,
                              [&](int64_t begin, int64_t end, int thread) {
                                for (int64_t i = begin; i < end; ++i) {
                                  WriteRun(runs[static_cast<size_t>(i)], thread);
                                }
                              });
  }

 private:
  void WriteRun(const TokenRun& run, int thread) {
    const int64_t width = (heads_ + 2 * kv_heads_) * dim_;
    ThreadScratch& scratch = context_.threads[static_cast<size_t>(thread)];
    float* row = scratch.rows.Get<float>(width);
    for (int64_t t = run.begin; t < run.end; ++t) {
      // Work on a copy: the tensor is an input, whatever its type.
      const float* values = BorderRow(context_, args_.qkv, t, width, row);
      if (values != row) std::copy(values, values + width, row);
      WriteToken(t, run.sequence, run.index + t - run.begin, row);
    }
  }

  void WriteToken(int64_t token, int64_t sequence, int64_t index, float* row) {
    const int64_t position = args_.batch->positions.as<int32_t>()[token];
    for (int64_t h = 0; h < heads_; ++h) {
      float* q = row + h * dim_;
      Turn(q, position, args_.q_norm, args_.crs_q, {}, h / (heads_ / kv_heads_));
      StoreQuery(token, h, q);
    }
    const Tensor& table = args_.batch->page_table;
    const int64_t page = table.as<int32_t>()[sequence * table.dim(1) + index / kTokensPerPage];
    uint8_t* bytes = args_.kv.pages.as<uint8_t>() + page * args_.kv.layout.page_bytes();
    const int slot = static_cast<int>(index % kTokensPerPage);
    for (int64_t h = 0; h < kv_heads_; ++h) {
      float* k = row + (heads_ + h) * dim_;
      Turn(k, position, args_.k_norm, args_.crs_k, args_.key_shift, h);
      pages_.StoreK(bytes, static_cast<int>(h), slot, k);
      pages_.StoreV(bytes, static_cast<int>(h), slot, row + (heads_ + kv_heads_ + h) * dim_);
    }
  }

  // q/k norm, RoPE, CRS, shift, Hadamard of one head.
  void Turn(float* x, int64_t position, const Tensor& norm, const Tensor& crs, const Tensor& shift,
            int64_t kv_head) {
    if (norm.defined()) context_.rows.rms_norm(x, norm.as<float>(), args_.norm_eps, dim_, x);
    const int64_t at = position * (dim_ / 2);
    context_.rows.rope(x, args_.rope_cos.as<float>() + at, args_.rope_sin.as<float>() + at, dim_);
    if (crs.defined()) context_.rows.multiply(x, crs.as<float>() + kv_head * dim_, dim_);
    if (shift.defined()) {
      const float* centre = shift.as<float>() + kv_head * dim_;
      for (int64_t c = 0; c < dim_; ++c) x[c] -= centre[c];
    }
    if (args_.qk_hadamard) Hadamard(context_.rows, x, dim_);
  }

  void StoreQuery(int64_t token, int64_t head, const float* q) {
    const Tensor& out = args_.q.values;
    const int64_t at = (token * heads_ + head) * dim_;
    if (out.dtype() == DType::kF32) {
      std::copy(q, q + dim_, out.as<float>() + at);
      return;
    }
    const TokenScale s = MakeTokenScale(context_.rows.absmax(q, dim_));
    args_.q.scale.as<float>()[token * heads_ + head] = s.scale;
    context_.rows.quantize(q, dim_, s.inv_scale, out.as<e4m3_t>() + at, nullptr);
  }

  Context& context_;
  const RopeKvWriteArgs& args_;
  const int64_t dim_;
  const int64_t heads_;
  const int64_t kv_heads_;
  const KvPageHost pages_;
};

}  // namespace

void RunRopeKvWrite(Context& context, const RopeKvWriteArgs& args) {
  if (args.batch->num_tokens == 0) return;
  Writer(context, args).Run();
}

}  // namespace fireq::cpu
