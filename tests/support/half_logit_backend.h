// The CPU backend as a device has it whose lm_head makes FP16 (Backend::LogitType).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/formats/f16.h"

namespace fireq::test {

class HalfLogitBackend : public Backend {
 public:
  int64_t samples() const { return samples_; }  // calls, all of FP16

  std::string name() const override { return cpu_->name(); }
  Tensor Allocate(DType dtype, Shape shape) override {
    return cpu_->Allocate(dtype, std::move(shape));
  }
  Tensor Upload(const Tensor& host) override { return cpu_->Upload(host); }
  Tensor Download(const Tensor& tensor) override { return cpu_->Download(tensor); }
  void Copy(const Tensor& from, const Tensor& to) override { cpu_->Copy(from, to); }
  void UploadTo(const Tensor& host, const Tensor& to) override { cpu_->UploadTo(host, to); }
  void Synchronize() override { cpu_->Synchronize(); }
  std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) override {
    return cpu_->Prepare(std::move(spec));
  }
  DType LogitType(const PreparedLinear& /*lm_head*/) const override { return DType::kF16; }
  void Embed(const EmbedArgs& args) override { cpu_->Embed(args); }
  void RmsNorm(const RmsNormArgs& args) override { cpu_->RmsNorm(args); }
  void Quantize(const QuantizeArgs& args) override { cpu_->Quantize(args); }
  void Linear(const LinearArgs& args) override {
    if (args.y.dtype() != DType::kF16) return cpu_->Linear(args);
    LinearArgs wide = args;
    wide.y = Tensor::Empty(DType::kF32, args.y.shape());
    cpu_->Linear(wide);
    std::transform(wide.y.as<float>(), wide.y.as<float>() + wide.y.num_elements(),
                   args.y.as<uint16_t>(), Half);
  }
  void RopeKvWrite(const RopeKvWriteArgs& args) override { cpu_->RopeKvWrite(args); }
  void Attention(const AttentionArgs& args) override { cpu_->Attention(args); }
  void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) override {
    cpu_->GatherRows(x, rows, out);
  }
  void Sample(const SampleArgs& args) override {
    ++samples_;
    ASSERT_EQ(args.logits.dtype(), DType::kF16);
    SampleArgs wide = args;
    wide.logits = Tensor::Empty(DType::kF32, args.logits.shape());
    const uint16_t* halves = args.logits.as<uint16_t>();
    std::transform(halves, halves + args.logits.num_elements(), wide.logits.as<float>(),
                   F16ToFloat);
    cpu_->Sample(wide);
  }

 protected:
  Backend& cpu() const { return *cpu_; }

 private:
  // Towards zero, and to zero what is no normal number.
  static uint16_t Half(float x) {
    const auto bits = std::bit_cast<uint32_t>(x);
    const uint32_t sign = bits >> 16 & 0x8000u, exponent = bits >> 23 & 0xFFu;
    if (exponent <= 112) return static_cast<uint16_t>(sign);
    return static_cast<uint16_t>(sign |
                                 std::min((bits & 0x7FFFFFFFu) - (112u << 23), 0x0F7FE000u) >> 13);
  }

  std::unique_ptr<Backend> cpu_ = MakeCpuBackend({.num_threads = 1});
  int64_t samples_ = 0;
};

}  // namespace fireq::test
