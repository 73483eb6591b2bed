#include "fireq/quant/stream.h"

#include <algorithm>
#include <numeric>

#include "fireq/formats/bf16.h"
#include "fireq/model/batch.h"

namespace fireq::quant {
Stream::Stream(Backend& backend, const ModelConfig& config, const StreamSpec& spec,
               std::span<const int32_t> ids, int64_t context, const Matrix<float>& embedding)
    : backend_(backend),
      context_(context),
      cache_(backend, config, spec.arithmetic.kv, 1, CeilDiv<int64_t>(context, kTokensPerPage)) {
  const int64_t count = std::ssize(ids) / context;
  FIREQ_CHECK(count > 0, kInvalidArgument, "calibration text has ", ids.size(),
              " tokens, fewer than one window of ", context);
  const RopeTable rope = MakeRopeTable(config.rope, config.head_dim, context);
  forward_.backend = &backend;
  forward_.config = &config;
  forward_.arithmetic = spec.arithmetic;
  forward_.qk_hadamard = spec.qk_hadamard;
  forward_.rope_cos = backend.Upload(rope.cos);
  forward_.rope_sin = backend.Upload(rope.sin);
  buffers_ = std::make_unique<ForwardBuffers>(forward_, context);

  std::vector<int32_t> pages(static_cast<size_t>(cache_.num_pages()));
  std::iota(pages.begin(), pages.end(), 0);
  const SequenceStep step{ids.first(static_cast<size_t>(context)), 0, pages};
  batch_ = MakeBatch(backend, std::span(&step, 1));

  for (int64_t window = 0; window < count; ++window) {
    Tensor x = Tensor::Empty(forward_.border(), {context, config.hidden});
    for (int64_t t = 0; t < context; ++t) {
      const int32_t id = ids[static_cast<size_t>(window * context + t)];
      FIREQ_CHECK(id >= 0 && id < embedding.rows, kInvalidArgument, "calibration token ",
                  window * context + t, ": id ", id, " is outside the vocabulary of ",
                  embedding.rows);
      const float* row = embedding.row(id);
      if (x.dtype() == DType::kF32)
        std::copy_n(row, config.hidden, x.as<float>() + t * config.hidden);
      else
        std::transform(row, row + config.hidden, x.as<bf16_t>() + t * config.hidden, FloatToBf16);
    }
    windows_.push_back(backend.Upload(x));
  }
  kept_.resize(windows_.size());
}

std::vector<Tensor> Stream::Windows() const {
  std::vector<Tensor> out;
  for (const Tensor& window : windows_) out.push_back(backend_.Download(window));
  return out;
}

void Stream::SetWindows(std::span<const Tensor> windows) {
  for (size_t i = 0; i < windows_.size(); ++i) {
    FIREQ_CHECK(
        windows[i].dtype() == windows_[i].dtype() && windows[i].shape() == windows_[i].shape(),
        kShapeMismatch, "residual stream ", i, ": ", Name(windows[i].dtype()), " ",
        ToString(windows[i].shape()), ", not ", Name(windows_[i].dtype()), " ",
        ToString(windows_[i].shape()));
    // A copy: blocks write to the windows, and what comes in may be a view of a file.
    backend_.Copy(backend_.Upload(windows[i]), windows_[i]);
  }
}

void Stream::StartBlock(int64_t layer, BlockWeights weights, const QuantisedInputs& quantised) {
  layer_ = layer;
  quantised_ = quantised;
  weights_ = std::move(weights);
}

void Stream::Attend(int64_t window, Tracer* tracer) {
  forward_.tracer = tracer;
  const size_t w = static_cast<size_t>(window);
  kept_[w] = Keep(Forward().AttentionOut(Normed(BlockInput::kAttention, window), weights_,
                                         cache_.layers()[0], InputType(BlockInput::kAttentionOut)));
  forward_.tracer = nullptr;
}

void Stream::AddAttention(int64_t window) {
  const size_t w = static_cast<size_t>(window);
  Forward().AddAttention(kept_[w], weights_, windows_[w]);
  kept_[w] = {};
}

void Stream::Feed(int64_t window) {
  kept_[static_cast<size_t>(window)] = Keep(Forward().MlpHidden(
      Normed(BlockInput::kMlp, window), weights_, InputType(BlockInput::kMlpHidden)));
}

void Stream::AddMlp(int64_t window) {
  const size_t w = static_cast<size_t>(window);
  Forward().AddMlp(kept_[w], weights_, windows_[w]);
  kept_[w] = {};
}

ActTensor Stream::Input(BlockInput which, int64_t window) {
  const bool kept = which == BlockInput::kAttentionOut || which == BlockInput::kMlpHidden;
  return kept ? kept_[static_cast<size_t>(window)] : Normed(which, window);
}

ActTensor Stream::Final(const Tensor& weight, int64_t window) {
  return Forward().AttentionInput(windows_[static_cast<size_t>(window)], weight, forward_.border());
}

DType Stream::InputType(BlockInput which) {
  return Forward().InputType(quantised_[static_cast<size_t>(which)]);
}

ActTensor Stream::Normed(BlockInput which, int64_t window) {
  const Tensor& x = windows_[static_cast<size_t>(window)];
  return which == BlockInput::kAttention
             ? Forward().AttentionInput(x, weights_.attn_norm, InputType(which))
             : Forward().MlpInput(x, weights_.mlp_norm, InputType(which));
}

ActTensor Stream::Keep(const ActTensor& tensor) const {
  const auto copy = [&](const Tensor& from) {
    if (!from.defined()) return Tensor();
    Tensor to = backend_.Allocate(from.dtype(), from.shape());
    backend_.Copy(from, to);
    return to;
  };
  return {copy(tensor.values), copy(tensor.scale), copy(tensor.sums)};
}

}  // namespace fireq::quant
