#include "fireq/measure/profiled_backend.h"

#include <utility>

namespace fireq {

template <class Op>
void ProfiledBackend::MarkAround(std::string name, OpClass op_class, Op op) {
  Span span{std::move(name), op_class, inner_.Mark(), nullptr};
  op();
  span.end = inner_.Mark();
  spans_.push_back(std::move(span));
}

class ProfiledRecording final : public Recording {
 public:
  ProfiledRecording(ProfiledBackend& owner, std::unique_ptr<Recording> inner,
                    std::vector<ProfiledBackend::Span> spans)
      : owner_(owner), inner_(std::move(inner)), spans_(std::move(spans)) {}
  void Run() override {
    if (owner_.detail_ == ProfileDetail::kRecordings) {
      if (!owner_.times_recordings_) return inner_->Run();
      return owner_.MarkAround("recording", OpClass::kOther, [&] { inner_->Run(); });
    }
    inner_->Run();
    owner_.Synchronize();  // the next run sets the marks again
    owner_.Add(spans_);
  }

 private:
  ProfiledBackend& owner_;
  std::unique_ptr<Recording> inner_;
  std::vector<ProfiledBackend::Span> spans_;  // inside the recording
};

std::unique_ptr<Recording> ProfiledBackend::Record(std::function<void()> body) {
  // A backend that keeps the body calls it at every run, and times it then as any other op.
  if (detail_ == ProfileDetail::kOps && !inner_.GainsByRecording())
    return inner_.Record(std::move(body));
  std::vector<Span> before = std::exchange(spans_, {});
  auto recording = inner_.Record(std::move(body));
  return std::make_unique<ProfiledRecording>(*this, std::move(recording),
                                             std::exchange(spans_, std::move(before)));
}

template <class Op>
void ProfiledBackend::Time(std::string name, OpClass op_class, Op op) {
  if (detail_ == ProfileDetail::kRecordings) return op();
  MarkAround(std::move(name), op_class, op);
}

void ProfiledBackend::Add(const std::vector<Span>& spans) {
  for (const Span& span : spans) {
    OpTime& time = times_[span.name];
    time.op_class = span.op_class;
    ++time.calls;
    time.microseconds += span.end->MicrosecondsSince(*span.start);
  }
}

std::map<std::string, OpTime> ProfiledBackend::Take() {
  Synchronize();
  Add(spans_);
  spans_.clear();
  return std::exchange(times_, {});
}

void ProfiledBackend::Embed(const EmbedArgs& args) {
  Time("embed", OpClass::kOther, [&] { inner_.Embed(args); });
}
void ProfiledBackend::RmsNorm(const RmsNormArgs& args) {
  Time("rms_norm", OpClass::kOther, [&] { inner_.RmsNorm(args); });
}
void ProfiledBackend::Quantize(const QuantizeArgs& args) {
  Time(StrCat("quantize ", args.x.dim(1)), OpClass::kOther, [&] { inner_.Quantize(args); });
}
void ProfiledBackend::Linear(const LinearArgs& args) {
  // Logits alone are not BF16.
  const bool lm_head = args.largest.defined() || args.y.dtype() != DType::kBF16;
  Time(StrCat(lm_head ? "lm_head " : "linear ", args.w->n(), " x ", args.w->k()),
       lm_head ? OpClass::kLmHead : OpClass::kLinear, [&] { inner_.Linear(args); });
}
void ProfiledBackend::RopeKvWrite(const RopeKvWriteArgs& args) {
  Time("rope_kv_write", OpClass::kOther, [&] { inner_.RopeKvWrite(args); });
}
void ProfiledBackend::Attention(const AttentionArgs& args) {
  Time("attention", OpClass::kAttention, [&] { inner_.Attention(args); });
}
void ProfiledBackend::GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  Time("gather_rows", OpClass::kOther, [&] { inner_.GatherRows(x, rows, out); });
}
void ProfiledBackend::Sample(const SampleArgs& args) {
  Time("sample", OpClass::kOther, [&] { inner_.Sample(args); });
}

}  // namespace fireq
