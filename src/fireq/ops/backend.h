// The ops a forward pass is made of, as one interface; backends/cpu and backends/sm90 implement it.
//
// Calls are asynchronous where the backend is (a GPU stream) and in order; Synchronize waits. Args
// are checked at the door by ops/validate.h, so an implementation sees only what fits. One thread
// uses a backend at a time. Errors: kShapeMismatch, kUnsupported, kOutOfMemory, kCuda.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "fireq/ops/args.h"

namespace fireq {

// A point on a backend's own timeline.
class TimePoint {
 public:
  virtual ~TimePoint() = default;
  // Both of one backend, which has been synchronised since.
  virtual double MicrosecondsSince(const TimePoint& start) const = 0;
};

// Ops recorded once, to run again and again.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void Run() = 0;  // asynchronous and in order, like an op
};

// A copy on its way to the host.
class Arrival {
 public:
  virtual ~Arrival() = default;
  virtual Tensor Wait() = 0;  // once
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu (AVX3, 2 threads)"

  virtual Tensor Allocate(DType dtype, Shape shape) = 0;  // uninitialised
  virtual Tensor Upload(const Tensor& host) = 0;          // host -> backend memory
  virtual Tensor Download(const Tensor& tensor) = 0;      // backend -> host memory, synchronous
  // Download in order with the ops, without waiting for it: ops called later run meanwhile. This
  // one waits.
  virtual std::unique_ptr<Arrival> StartDownload(const Tensor& tensor);
  // Upload into memory that is there already, in order with the ops; `host` may change on return.
  virtual void UploadTo(const Tensor& host, const Tensor& to) = 0;
  virtual void Copy(const Tensor& from, const Tensor& to) = 0;  // same dtype and size, same memory
  virtual void Synchronize() = 0;
  virtual int64_t FreeBytes();  // that Allocate could still have; this one: the machine's
  // Takes what ops of steps within `limits` need besides their tensors, so that none of them takes
  // more; returns how many bytes of Allocate's memory are held for it. This one needs nothing.
  virtual int64_t Reserve(const StepLimits& limits);

  virtual std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) = 0;
  // Random weights, equal on every backend. These make them on the host and hand them over.
  virtual std::shared_ptr<const PreparedLinear> PrepareRandom(const RandomLinearSpec& spec);
  virtual Tensor RandomBf16(Shape shape, float spread, uint64_t seed);

  // Of logits that only Sample reads: what `lm_head` makes without a conversion, F32 or F16.
  virtual DType LogitType(const PreparedLinear& lm_head) const;
  // Whether `lm_head` finds LinearArgs::largest by itself, beside logits or instead of them.
  virtual bool FindsLargest(const PreparedLinear& /*lm_head*/) const { return false; }

  // Now. Inside Record: when each run gets there. This one is the host's clock.
  virtual std::unique_ptr<TimePoint> Mark();

  // Whether ops run while the host does something else.
  virtual bool RunsAhead() const { return false; }
  // Whether recorded ops run faster than the same ops called one by one.
  virtual bool GainsByRecording() const { return false; }
  // The ops that `body` calls, which allocates, uploads, downloads and synchronises nothing and has
  // been run before with tensors of the same shapes. Each Run reads what the tensors hold by then;
  // everything that `body` refers to outlives the recording. This one keeps `body` and calls it.
  virtual std::unique_ptr<Recording> Record(std::function<void()> body);

  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void RmsNorm(const RmsNormArgs& args) = 0;
  virtual void Quantize(const QuantizeArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void RopeKvWrite(const RopeKvWriteArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
  // out [R, D] = x[rows[i]]; x and out of one dtype, rows I32 [R]
  virtual void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) = 0;
  virtual void Sample(const SampleArgs& args) = 0;
};

}  // namespace fireq
