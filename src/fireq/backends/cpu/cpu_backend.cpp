#include "fireq/backends/cpu/cpu_backend.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "fireq/backends/cpu/attention.h"
#include "fireq/backends/cpu/context.h"
#include "fireq/backends/cpu/linear.h"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/act_int8.h"
#include "fireq/formats/f16.h"
#include "fireq/ops/sampler.h"
#include "fireq/ops/validate.h"

namespace fireq {
namespace {

constexpr int64_t kRowsGrain = 8;

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : context_(options.num_threads, options.portable_only) {}

  std::string name() const override {
    return StrCat("cpu (", context_.bf16 != nullptr ? context_.bf16->name : context_.rows.target,
                  ", ", context_.pool.num_threads(), " threads)");
  }

  Tensor Allocate(DType dtype, Shape shape) override {
    return Tensor::Empty(dtype, std::move(shape));
  }
  Tensor Upload(const Tensor& host) override { return host; }
  Tensor Download(const Tensor& tensor) override { return tensor; }
  void Copy(const Tensor& from, const Tensor& to) override {
    ValidateCopy(from, to);
    const auto* source = static_cast<const uint8_t*>(from.data());
    auto* target = static_cast<uint8_t*>(to.data());
    context_.pool.ParallelFor(from.size_bytes(), 1 << 18, [&](int64_t begin, int64_t end, int) {
      std::memmove(target + begin, source + begin, static_cast<size_t>(end - begin));
    });
  }
  void UploadTo(const Tensor& host, const Tensor& to) override { Copy(host, to); }
  void Synchronize() override {}

  std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) override {
    Validate(spec);
    return std::make_shared<cpu::CpuLinear>(std::move(spec));
  }

  void Embed(const EmbedArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override;
  void Quantize(const QuantizeArgs& args) override;
  void Linear(const LinearArgs& args) override {
    Validate(args);
    FIREQ_CHECK(!args.largest.defined(), kUnsupported, "linear: the CPU finds no largest outputs");
    cpu::RunLinear(context_, args);
  }
  void RopeKvWrite(const RopeKvWriteArgs& args) override {
    Validate(args);
    cpu::RunRopeKvWrite(context_, args);
  }
  void Attention(const AttentionArgs& args) override {
    Validate(args);
    cpu::RunAttention(context_, args);
  }
  void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) override;
  void Sample(const SampleArgs& args) override;

 private:
  // body(row, scratch of `width` floats) for every row.
  template <class Body>
  void ForRows(int64_t count, int64_t width, const Body& body) {
    context_.pool.ParallelFor(count, kRowsGrain, [&](int64_t begin, int64_t end, int thread) {
      float* scratch = context_.threads[static_cast<size_t>(thread)].rows.Get<float>(width);
      for (int64_t i = begin; i < end; ++i) body(i, scratch);
    });
  }

  void QuantizeRow(const float* x, int64_t n, const ActTensor& out, int64_t row) {
    if (out.values.dtype() == DType::kI8) {
      const TokenScale s = MakeInt8TokenScale(context_.rows.absmax(x, n));
      out.scale.as<float>()[row] = s.scale;
      std::transform(x, x + n, out.values.as<int8_t>() + row * n,
                     [&](float value) { return Int8Code(value, s.inv_scale); });
      return;
    }
    const TokenScale s = MakeTokenScale(context_.rows.absmax(x, n));
    out.scale.as<float>()[row] = s.scale;
    context_.rows.quantize(x, n, s.inv_scale, out.values.as<e4m3_t>() + row * n,
                           out.sums.as<float>() + row * CeilDiv<int64_t>(n, kGroup));
  }

  cpu::Context context_;
  std::vector<Sampler> samplers_;  // one a thread
};

void CpuBackend::Embed(const EmbedArgs& args) {
  Validate(args);
  const int64_t n = args.table.dim(1);
  ForRows(args.ids.dim(0), n, [&](int64_t i, float* row) {
    const float* values = row;
    int32_t id = args.ids.as<int32_t>()[i];
    if (id < 0) id = std::max(args.chosen.as<int32_t>()[~id], 0);
    if (args.table.dtype() == DType::kF16) {
      const auto* from = args.table.as<uint16_t>() + id * n;
      std::transform(from, from + n, row, F16ToFloat);
    } else {
      values = cpu::BorderRow(context_, args.table, id, n, row);
    }
    cpu::StoreBorderRow(context_, values, n, args.out, i);
  });
}

void CpuBackend::RmsNorm(const RmsNormArgs& args) {
  Validate(args);
  const int64_t n = args.x.dim(1);
  ForRows(args.x.dim(0), n, [&](int64_t i, float* row) {
    const float* x = cpu::BorderRow(context_, args.x, i, n, row);
    context_.rows.rms_norm(x, args.weight.as<float>(), args.eps, n, row);
    if (IsCodes(args.out.values.dtype())) {
      QuantizeRow(row, n, args.out, i);
    } else {
      cpu::StoreBorderRow(context_, row, n, args.out.values, i);
    }
  });
}

void CpuBackend::Quantize(const QuantizeArgs& args) {
  Validate(args);
  const int64_t n = args.x.dim(1);
  ForRows(args.x.dim(0), n, [&](int64_t i, float* row) {
    QuantizeRow(cpu::BorderRow(context_, args.x, i, n, row), n, args.out, i);
  });
}

void CpuBackend::GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  ValidateGatherRows(x, rows, out);
  const int64_t row_bytes = x.dim(1) * SizeBytes(x.dtype());
  const auto* from = static_cast<const uint8_t*>(x.data());
  auto* to = static_cast<uint8_t*>(out.data());
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    std::memcpy(to + i * row_bytes, from + rows.as<int32_t>()[i] * row_bytes,
                static_cast<size_t>(row_bytes));
  }
}

void CpuBackend::Sample(const SampleArgs& args) {
  Validate(args);
  const auto* params = static_cast<const SampleRowParams*>(args.params.data());
  const size_t vocab = static_cast<size_t>(args.logits.dim(1));
  const int64_t width = args.out.dim(1);
  samplers_.resize(context_.threads.size());
  context_.pool.ParallelFor(args.logits.dim(0), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t r = begin; r < end; ++r) {
      const SampleRowParams& row = params[r];
      std::span<const int32_t> history;
      if (args.history.defined())
        history = {args.history.as<int32_t>() + row.history_begin,
                   static_cast<size_t>(row.history_end - row.history_begin)};
      const TokenChoice choice = samplers_[static_cast<size_t>(thread)].Choose(
          ParamsOf(row), {args.logits.as<float>() + static_cast<size_t>(r) * vocab, vocab}, history,
          row.draw);
      int32_t* out = args.out.as<int32_t>() + r * width;
      out[0] = choice.id;
      if (args.ids.defined()) args.ids.as<int32_t>()[r] = choice.id;
      out[1] = std::bit_cast<int32_t>(choice.logprob);
      int32_t* pair = out + kSampleHead;
      for (const TokenLogprob& top : choice.top) {
        *pair++ = top.id;
        *pair++ = std::bit_cast<int32_t>(top.logprob);
      }
      if (pair < out + width) *pair = -1;
    }
  });
}

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(const CpuOptions& options) {
  FIREQ_CHECK(options.num_threads >= 0 && options.num_threads <= 1024, kInvalidArgument,
              "number of threads ", options.num_threads, " is not in 0..1024");
  return std::make_unique<CpuBackend>(options);
}

}  // namespace fireq
