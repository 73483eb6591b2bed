// A backend that says how long its ops took, on its own timeline.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fireq/ops/backend.h"

namespace fireq {

// What ops are counted under.
enum class OpClass : uint8_t { kLinear, kAttention, kLmHead, kOther };

struct OpTime {
  OpClass op_class = OpClass::kOther;
  int64_t calls = 0;
  double microseconds = 0.0;
};

enum class ProfileDetail : uint8_t {
  // Every op; inside a recording at each run. Marks keep a device from overlapping neighbouring
  // ops, so these are times of ops alone, longer together than an unmarked step.
  kOps,
  kRecordings,  // each run of a recording as a whole, under "recording"
};

// Wraps a backend that outlives it; weights prepared by one are used by the other.
class ProfiledBackend final : public Backend {
 public:
  ProfiledBackend(Backend& inner, ProfileDetail detail) : inner_(inner), detail_(detail) {}

  // By name ("linear 4096 x 14336", "attention", ...) since the last call, and counting starts
  // again. Synchronises.
  std::map<std::string, OpTime> Take();

  // Whether runs of recordings from here on are timed; they are at first.
  void TimeRecordings(bool timed) { times_recordings_ = timed; }

  std::string name() const override { return inner_.name(); }
  Tensor Allocate(DType dtype, Shape shape) override {
    return inner_.Allocate(dtype, std::move(shape));
  }
  Tensor Upload(const Tensor& host) override { return inner_.Upload(host); }
  Tensor Download(const Tensor& tensor) override { return inner_.Download(tensor); }
  std::unique_ptr<Arrival> StartDownload(const Tensor& tensor) override {
    return inner_.StartDownload(tensor);
  }
  void UploadTo(const Tensor& host, const Tensor& to) override { inner_.UploadTo(host, to); }
  void Copy(const Tensor& from, const Tensor& to) override { inner_.Copy(from, to); }
  void Synchronize() override { inner_.Synchronize(); }
  int64_t FreeBytes() override { return inner_.FreeBytes(); }
  int64_t Reserve(const StepLimits& limits) override { return inner_.Reserve(limits); }
  std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) override {
    return inner_.Prepare(std::move(spec));
  }
  DType LogitType(const PreparedLinear& lm_head) const override {
    return inner_.LogitType(lm_head);
  }
  bool FindsLargest(const PreparedLinear& lm_head) const override {
    return inner_.FindsLargest(lm_head);
  }
  std::unique_ptr<TimePoint> Mark() override { return inner_.Mark(); }
  bool RunsAhead() const override { return inner_.RunsAhead(); }
  bool GainsByRecording() const override { return inner_.GainsByRecording(); }
  std::unique_ptr<Recording> Record(std::function<void()> body) override;

  void Embed(const EmbedArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override;
  void Quantize(const QuantizeArgs& args) override;
  void Linear(const LinearArgs& args) override;
  void RopeKvWrite(const RopeKvWriteArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) override;
  void Sample(const SampleArgs& args) override;

 private:
  friend class ProfiledRecording;
  struct Span {
    std::string name;
    OpClass op_class;
    std::unique_ptr<TimePoint> start, end;
  };
  template <class Op>
  void MarkAround(std::string name, OpClass op_class, Op op);
  template <class Op>
  void Time(std::string name, OpClass op_class, Op op);
  void Add(const std::vector<Span>& spans);

  Backend& inner_;
  ProfileDetail detail_;
  bool times_recordings_ = true;
  std::vector<Span> spans_;  // since the last Take, or of the recording in the making
  std::map<std::string, OpTime> times_;
};

}  // namespace fireq
