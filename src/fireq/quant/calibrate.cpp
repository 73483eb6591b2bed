#include "fireq/quant/calibrate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "fireq/model/batch.h"
#include "fireq/quant/block_io.h"

namespace fireq::quant {
namespace {

// Collects BlockStats from the intermediates of one block's forward passes.
class StatsTracer : public Tracer {
 public:
  StatsTracer(Backend& backend, const ModelConfig& config, const Block<float>& block,
              const RopeTable& rope, bool full, ThreadPool& pool)
      : backend_(backend), config_(config), block_(block), rope_(rope), pool_(pool) {
    stats_.attn_input = InputMoments(config.hidden, full);
    stats_.attn_out = InputMoments(config.q_rows(), full);
    stats_.mlp_input = InputMoments(config.hidden, full);
    stats_.mlp_hidden = InputMoments(config.ffn, full);
    stats_.keys.pair_norm.assign(static_cast<size_t>(config.kv_rows() / 2), 0.0f);
    stats_.keys.key_energy.assign(stats_.keys.pair_norm.size(), 0.0);
    stats_.keys.query_energy = stats_.keys.key_energy;
    stats_.keys.channel_max.assign(static_cast<size_t>(config.kv_rows()), 0.0f);
  }

  void OnTensor(int64_t layer, std::string_view name, const ActTensor& tensor) override {
    InputMoments* moments = nullptr;
    if (name == "attn_input") moments = &stats_.attn_input;
    if (name == "attn_out") moments = &stats_.attn_out;
    if (name == "mlp_input") moments = &stats_.mlp_input;
    if (name == "mlp_hidden") moments = &stats_.mlp_hidden;
    if (!moments && name != "qkv") return;
    const Tensor host = backend_.Download(tensor.values);
    if (moments) {
      moments->Add(host.as<float>(), host.dim(0), StrCat("layer ", layer, " ", name), pool_);
    } else {
      AddKeys(host);
    }
  }

  BlockStats Take() { return std::move(stats_); }

 private:
  // qkv [T, (H + 2 Hk) Dh] of one window: row t is position t.
  void AddKeys(const Tensor& qkv) {
    const int64_t head_dim = config_.head_dim;
    const int64_t group = config_.num_heads / config_.num_kv_heads;
    pool_.ParallelFor(config_.num_kv_heads, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> head(static_cast<size_t>(head_dim));
      for (int64_t kv_head = begin; kv_head < end; ++kv_head) {
        for (int64_t t = 0; t < qkv.dim(0); ++t) {
          const float* row = qkv.as<float>() + t * config_.qkv_rows();
          const float* key = row + config_.q_rows() + kv_head * head_dim;
          std::copy(key, key + head_dim, head.begin());
          if (!block_.k_norm.empty()) Normalise(head, block_.k_norm);
          AddKey(head, kv_head, t);
          AddEnergy(head, stats_.keys.key_energy, kv_head);
          for (int64_t q_head = kv_head * group; q_head < (kv_head + 1) * group; ++q_head) {
            std::copy_n(row + q_head * head_dim, head_dim, head.begin());
            if (!block_.q_norm.empty()) Normalise(head, block_.q_norm);
            AddEnergy(head, stats_.keys.query_energy, kv_head);
          }
        }
      }
    });
  }

  void AddKey(const std::vector<float>& key, int64_t kv_head, int64_t position) {
    const size_t half = key.size() / 2;
    float* pair_norm = stats_.keys.pair_norm.data() + kv_head * config_.head_dim / 2;
    float* channel_max = stats_.keys.channel_max.data() + kv_head * config_.head_dim;
    const float* cos = rope_.cos.as<float>() + position * config_.head_dim / 2;
    const float* sin = rope_.sin.as<float>() + position * config_.head_dim / 2;
    for (size_t f = 0; f < half; ++f) {
      const float a = key[f], b = key[f + half];
      pair_norm[f] = std::max(pair_norm[f], std::sqrt(a * a + b * b));
      channel_max[f] = std::max(channel_max[f], std::fabs(a * cos[f] - b * sin[f]));
      channel_max[f + half] = std::max(channel_max[f + half], std::fabs(b * cos[f] + a * sin[f]));
    }
  }

  void AddEnergy(const std::vector<float>& head, std::vector<double>& energy,
                 int64_t kv_head) const {
    const size_t half = head.size() / 2;
    double* sums = energy.data() + static_cast<size_t>(kv_head) * half;
    for (size_t f = 0; f < half; ++f)
      sums[f] += double{head[f]} * head[f] + double{head[f + half]} * head[f + half];
  }

  void Normalise(std::vector<float>& head, const std::vector<float>& weight) const {
    float sum = 0.0f;
    for (const float x : head) sum += x * x;
    const float inv = 1.0f / std::sqrt(sum / static_cast<float>(head.size()) + config_.rms_eps);
    for (size_t c = 0; c < head.size(); ++c) head[c] *= inv * weight[c];
  }

  Backend& backend_;
  const ModelConfig& config_;
  const Block<float>& block_;
  const RopeTable& rope_;
  ThreadPool& pool_;
  BlockStats stats_;
};

}  // namespace

Calibration::Calibration(Backend& backend, const ModelConfig& config, std::span<const int32_t> ids,
                         int64_t context, const Matrix<float>& embedding, ThreadPool& pool)
    : backend_(backend),
      config_(config),
      pool_(pool),
      context_(context),
      cache_(backend, config, KvGrid::kFloat, 1, CeilDiv<int64_t>(context, kTokensPerPage)),
      rope_(MakeRopeTable(config.rope, config.head_dim, context)) {
  const int64_t count = std::ssize(ids) / context;
  FIREQ_CHECK(count > 0, kInvalidArgument, "calibration text has ", ids.size(),
              " tokens, fewer than one window of ", context);
  forward_.backend = &backend;
  forward_.config = &config;
  forward_.rope_cos = backend.Upload(rope_.cos);
  forward_.rope_sin = backend.Upload(rope_.sin);
  buffers_ = std::make_unique<ForwardBuffers>(forward_, context);

  std::vector<int32_t> pages(static_cast<size_t>(cache_.num_pages()));
  std::iota(pages.begin(), pages.end(), 0);
  const SequenceStep step{ids.first(static_cast<size_t>(context)), 0, pages};
  batch_ = MakeBatch(backend, std::span(&step, 1));

  for (int64_t window = 0; window < count; ++window) {
    Tensor x = Tensor::Empty(DType::kF32, {context, config.hidden});
    for (int64_t t = 0; t < context; ++t) {
      const int32_t id = ids[static_cast<size_t>(window * context + t)];
      FIREQ_CHECK(id >= 0 && id < embedding.rows, kInvalidArgument, "calibration token ",
                  window * context + t, ": id ", id, " is outside the vocabulary of ",
                  embedding.rows);
      std::copy_n(embedding.row(id), config.hidden, x.as<float>() + t * config.hidden);
    }
    windows_.push_back(backend.Upload(x));
  }
}

std::vector<Tensor> Calibration::Streams() const {
  std::vector<Tensor> out;
  for (const Tensor& window : windows_) out.push_back(backend_.Download(window));
  return out;
}

void Calibration::SetStreams(const std::vector<Tensor>& streams) {
  FIREQ_CHECK(streams.size() == windows_.size(), kShapeMismatch, streams.size(),
              " residual streams for ", windows_.size(), " windows");
  for (size_t i = 0; i < streams.size(); ++i) {
    FIREQ_CHECK(streams[i].dtype() == DType::kF32 && streams[i].shape() == windows_[i].shape(),
                kShapeMismatch, "residual stream ", i, ": ", Name(streams[i].dtype()), " ",
                ToString(streams[i].shape()), ", not F32 ", ToString(windows_[i].shape()));
    // A copy: blocks write to the windows, and what comes in may be a view of a file.
    backend_.Copy(backend_.Upload(streams[i]), windows_[i]);
  }
}

BlockStats Calibration::RunBlock(Block<float>& block, int64_t layer, bool full_moments) {
  const BlockWeights prepared = PrepareBlock(backend_, block, config_.head_dim);
  StatsTracer tracer(backend_, config_, block, rope_, full_moments, pool_);
  ForwardContext forward = forward_;
  forward.tracer = &tracer;
  for (const Tensor& x : windows_)
    ForwardBlock(forward, *buffers_, layer, prepared, batch_, cache_.layers()[0], x);
  backend_.Synchronize();
  return tracer.Take();
}

}  // namespace fireq::quant
