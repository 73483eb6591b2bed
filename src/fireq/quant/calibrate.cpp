#include "fireq/quant/calibrate.h"

#include <algorithm>
#include <cmath>

#include "fireq/quant/block_io.h"

namespace fireq::quant {
namespace {

// Collects KeyRanges from the attention of one block.
class KeyTracer : public Tracer {
 public:
  KeyTracer(Backend& backend, const ModelConfig& config, const Block<float>& block,
            const RopeTable& rope, ThreadPool& pool)
      : backend_(backend), config_(config), block_(block), rope_(rope), pool_(pool) {
    keys_.pair_norm.assign(static_cast<size_t>(config.kv_rows() / 2), 0.0f);
    keys_.key_energy.assign(keys_.pair_norm.size(), 0.0);
    keys_.query_energy = keys_.key_energy;
    keys_.channel_max.assign(static_cast<size_t>(config.kv_rows()), 0.0f);
    keys_.channel_mean.assign(keys_.channel_max.size(), 0.0);
  }

  void OnTensor(int64_t, std::string_view name, const ActTensor& tensor) override {
    if (name == "qkv") AddKeys(backend_.Download(tensor.values));
  }

  KeyRanges Take() {
    for (double& sum : keys_.channel_mean)
      sum /= static_cast<double>(std::max<int64_t>(tokens_, 1));
    return std::move(keys_);
  }

 private:
  // qkv [T, (H + 2 Hk) Dh] of one window: row t is position t.
  void AddKeys(const Tensor& qkv) {
    tokens_ += qkv.dim(0);
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
          AddEnergy(head, keys_.key_energy, kv_head);
          for (int64_t q_head = kv_head * group; q_head < (kv_head + 1) * group; ++q_head) {
            std::copy_n(row + q_head * head_dim, head_dim, head.begin());
            if (!block_.q_norm.empty()) Normalise(head, block_.q_norm);
            AddEnergy(head, keys_.query_energy, kv_head);
          }
        }
      }
    });
  }

  void AddKey(const std::vector<float>& key, int64_t kv_head, int64_t position) {
    const size_t half = key.size() / 2;
    float* pair_norm = keys_.pair_norm.data() + kv_head * config_.head_dim / 2;
    float* channel_max = keys_.channel_max.data() + kv_head * config_.head_dim;
    double* channel_sum = keys_.channel_mean.data() + kv_head * config_.head_dim;
    const float* cos = rope_.cos.as<float>() + position * config_.head_dim / 2;
    const float* sin = rope_.sin.as<float>() + position * config_.head_dim / 2;
    for (size_t f = 0; f < half; ++f) {
      const float a = key[f], b = key[f + half];
      pair_norm[f] = std::max(pair_norm[f], std::sqrt(a * a + b * b));
      const float first = a * cos[f] - b * sin[f], second = b * cos[f] + a * sin[f];
      channel_max[f] = std::max(channel_max[f], std::fabs(first));
      channel_max[f + half] = std::max(channel_max[f + half], std::fabs(second));
      channel_sum[f] += first;
      channel_sum[f + half] += second;
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
  int64_t tokens_ = 0;
  KeyRanges keys_;  // channel_mean: sums until taken
};

bool AddsToStream(BlockInput which) {
  return which == BlockInput::kAttentionOut || which == BlockInput::kMlpHidden;
}

}  // namespace

Calibration::Calibration(Backend& backend, Fitter& fitter, const ModelConfig& config,
                         std::span<const int32_t> ids, const CalibrationSpec& spec,
                         const Matrix<float>& embedding, ThreadPool& pool)
    : backend_(backend),
      fitter_(fitter),
      config_(config),
      spec_(spec),
      pool_(pool),
      rope_(MakeRopeTable(config.rope, config.head_dim, spec.context)),
      float_(backend, config, {}, ids, spec.context, embedding) {
  if (spec.follow) quantised_.emplace(backend, config, *spec.follow, ids, spec.context, embedding);
}

std::vector<Tensor> Calibration::Streams() const {
  std::vector<Tensor> out = float_.Windows();
  if (quantised_)
    for (Tensor& window : quantised_->Windows()) out.push_back(std::move(window));
  return out;
}

void Calibration::SetStreams(const std::vector<Tensor>& streams) {
  const size_t count = static_cast<size_t>(float_.num_windows());
  FIREQ_CHECK(streams.size() == (quantised_ ? 2 : 1) * count, kShapeMismatch, streams.size(),
              " residual streams for ", count, " windows", quantised_ ? " of two models" : "");
  float_.SetWindows(std::span(streams).first(count));
  if (quantised_) quantised_->SetWindows(std::span(streams).subspan(count));
}

KeyRanges Calibration::StartBlock(Block<float>& block, int64_t layer, bool look_at_keys) {
  layer_ = layer;
  block_ = &block;
  float_.StartBlock(layer, PrepareBlock(backend_, block, config_.head_dim));
  KeyTracer tracer(backend_, config_, block, rope_, pool_);
  for (int64_t window = 0; window < float_.num_windows(); ++window)
    float_.Attend(window, look_at_keys ? &tracer : nullptr);
  backend_.Synchronize();
  return tracer.Take();
}

void Calibration::StartFollowing(const Block<float>& block, int64_t layer,
                                 const QuantisedInputs& quantised) {
  if (quantised_)
    quantised_->StartBlock(layer, PrepareSmallTensors(backend_, block, config_.head_dim),
                           quantised);
}

std::unique_ptr<InputFit> Calibration::Study(BlockInput which) {
  static constexpr const char* kNames[] = {"attn_input", "attn_out", "mlp_input", "mlp_hidden"};
  FitShape shape;
  shape.k = which == BlockInput::kAttentionOut ? config_.q_rows()
            : which == BlockInput::kMlpHidden  ? config_.ffn
                                               : config_.hidden;
  shape.full = spec_.full_moments;
  shape.outputs = config_.hidden;
  if (quantised_) shape.target = AddsToStream(which) ? FitTarget::kOutput : FitTarget::kInput;
  std::unique_ptr<InputFit> fit =
      fitter_.Start(shape, StrCat("layer ", layer_, " ", kNames[static_cast<size_t>(which)]));
  // Each step of the float stream is taken here, behind what it needs: attention is done already.
  for (int64_t window = 0; window < float_.num_windows(); ++window) {
    if (which == BlockInput::kMlpHidden) float_.Feed(window);
    ActTensor input;
    if (!quantised_ || !AddsToStream(which)) input = float_.Input(which, window);
    if (!quantised_) fit->Add({.x = input});
    if (which == BlockInput::kAttentionOut) float_.AddAttention(window);
    if (which == BlockInput::kMlpHidden) float_.AddMlp(window);
    if (quantised_) fit->Add(FollowedTokens(which, window, input));
  }
  return fit;
}

void Calibration::SetProducts(int64_t window) {
  quantised_->products() = !spec_.both_products ? spec_.products
                           : window % 2 == 0    ? Products::kTable
                                                : Products::kExact;
}

// One window of the quantised model, to where the input exists; `ahead` is the float model's where
// no residual stream is added to. There the target leads from the quantised stream in front of o or
// down to the float one behind it, less the bias: what the linear's product should be.
FitTokens Calibration::FollowedTokens(BlockInput which, int64_t window, const ActTensor& ahead) {
  Stream& stream = *quantised_;
  SetProducts(window);
  if (which == BlockInput::kAttentionOut) stream.Attend(window, nullptr);
  if (which == BlockInput::kMlp) stream.AddAttention(window);
  if (which == BlockInput::kMlpHidden) stream.Feed(window);
  FitTokens out{.x = stream.Input(which, window), .ahead = ahead};
  if (!AddsToStream(which)) return out;
  out.ahead = {float_.Residual(window), {}, {}};
  out.behind = stream.Residual(window);
  const FloatLinear<float>& linear = which == BlockInput::kAttentionOut ? block_->o : block_->down;
  if (!linear.bias.empty()) out.bias = linear.bias.data();
  return out;
}

void Calibration::Follow(BlockInput which, LinearSpec linears) {
  if (!quantised_) return;
  BlockWeights& weights = quantised_->weights();
  const std::shared_ptr<const PreparedLinear> prepared = backend_.Prepare(std::move(linears));
  switch (which) {
    case BlockInput::kAttention:
      weights.qkv = prepared;
      break;
    case BlockInput::kAttentionOut:
      weights.o = prepared;
      break;
    case BlockInput::kMlp:
      weights.gate_up = prepared;
      break;
    case BlockInput::kMlpHidden:
      weights.down = prepared;
      break;
  }
}

void Calibration::FinishBlock() {
  if (!quantised_) return;
  for (int64_t window = 0; window < quantised_->num_windows(); ++window) {
    SetProducts(window);
    quantised_->AddMlp(window);
  }
}

std::unique_ptr<InputFit> Calibration::StudyHead(const std::vector<float>& final_norm) {
  const Tensor weight = backend_.Upload(F32Tensor(final_norm, {config_.hidden}));
  std::unique_ptr<InputFit> fit =
      fitter_.Start({.k = config_.hidden, .full = true, .target = FitTarget::kInput}, "final_norm");
  for (int64_t window = 0; window < float_.num_windows(); ++window) {
    const ActTensor ahead = float_.Final(weight, window);
    fit->Add({.x = quantised_->Final(weight, window), .ahead = ahead});
  }
  return fit;
}

}  // namespace fireq::quant
