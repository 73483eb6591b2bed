// The ops a forward pass is made of, as one interface; backends/cpu and backends/sm90 implement it.
//
// Calls are asynchronous where the backend is (a GPU stream) and in order; Synchronize waits. Args
// are checked at the door by ops/validate.h, so an implementation sees only what fits. One thread
// uses a backend at a time. Errors: kShapeMismatch, kUnsupported, kOutOfMemory, kCuda.
#pragma once

#include <memory>
#include <string>

#include "fireq/ops/args.h"

namespace fireq {

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu (AVX3, 2 threads)"

  virtual Tensor Allocate(DType dtype, Shape shape) = 0;  // uninitialised
  virtual Tensor Upload(const Tensor& host) = 0;          // host -> backend memory
  virtual Tensor Download(const Tensor& tensor) = 0;      // backend -> host memory, synchronous
  virtual void Copy(const Tensor& from, const Tensor& to) = 0;  // same dtype and size, same memory
  virtual void Synchronize() = 0;

  virtual std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) = 0;

  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void RmsNorm(const RmsNormArgs& args) = 0;
  virtual void Quantize(const QuantizeArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void RopeKvWrite(const RopeKvWriteArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
  // out [R, D] = x[rows[i]]; x and out of one dtype, rows I32 [R]
  virtual void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) = 0;
};

}  // namespace fireq
