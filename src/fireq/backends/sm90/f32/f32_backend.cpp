#include "fireq/backends/sm90/f32/f32_backend.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/backend/prepared.h"
#include "fireq/backends/sm90/backend/rope_args.h"
#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/backends/sm90/backend/stream_owner.h"
#include "fireq/backends/sm90/f32/f32_gemm.h"
#include "fireq/backends/sm90/f32/launch.h"
#include "fireq/formats/f16.h"
#include "fireq/ops/validate.h"

namespace fireq {
namespace sm90 {
namespace {

// Float parts stacked along N, F32 on the device.
class F32Linear final : public PreparedLinear {
 public:
  F32Linear(const LinearSpec& spec, const std::shared_ptr<Stream>& stream) {
    k_ = spec.parts[0].weight.dim(1);
    bool any_bias = false;
    for (const LinearPart& part : spec.parts) {
      n_ += part.weight.dim(0);
      any_bias |= part.bias.defined();
    }
    weight = AllocateDevice(stream, DType::kF32, {n_, k_});
    if (any_bias) {
      bias = AllocateDevice(stream, DType::kF32, {n_});
      FIREQ_CUDA(
          cudaMemsetAsync(bias.data(), 0, static_cast<size_t>(bias.size_bytes()), stream->get()));
    }
    int64_t begin = 0;
    for (const LinearPart& part : spec.parts) {
      const int64_t end = begin + part.weight.dim(0);
      Load(part.weight, weight.Rows(begin, end), stream);
      if (part.bias.defined()) CopyToDevice(part.bias, bias.Rows(begin, end), *stream);
      begin = end;
    }
  }

  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  bool quantized() const override { return false; }

  Tensor weight;  // [N, K]
  Tensor bias;    // [N] or undefined

 private:
  static void Load(const Tensor& host, const Tensor& to, const std::shared_ptr<Stream>& stream) {
    if (host.dtype() == DType::kF32) {
      CopyToDevice(host, to, *stream);
    } else if (host.dtype() == DType::kBF16) {
      const Tensor narrow = UploadTensor(host, stream);
      LaunchBf16ToF32(narrow.as<bf16_t>(), host.num_elements(), to.as<float>(), stream->get());
    } else {
      const Tensor wide = Tensor::Empty(DType::kF32, host.shape());
      std::transform(host.as<uint16_t>(), host.as<uint16_t>() + host.num_elements(),
                     wide.as<float>(), F16ToFloat);
      CopyToDevice(wide, to, *stream);
    }
  }

  int64_t n_ = 0;
  int64_t k_ = 0;
};

bool IsF32(const Tensor& tensor) { return tensor.dtype() == DType::kF32; }

class F32Backend final : public Backend, public StreamOwner {
 public:
  explicit F32Backend(int device)
      : inner_(MakeSm90Backend(device)),
        stream_(dynamic_cast<const StreamOwner&>(*inner_).shared_stream()),
        gemm_(stream_) {}

  std::string name() const override { return inner_->name(); }
  const Stream& stream() const override { return *stream_; }
  std::shared_ptr<Stream> shared_stream() const override { return stream_; }

  Tensor Allocate(DType dtype, Shape shape) override {
    return inner_->Allocate(dtype, std::move(shape));
  }
  Tensor Upload(const Tensor& host) override { return inner_->Upload(host); }
  Tensor Download(const Tensor& tensor) override { return inner_->Download(tensor); }
  std::unique_ptr<Arrival> StartDownload(const Tensor& tensor) override {
    auto arrival = inner_->StartDownload(tensor);
    // Before ops of this backend.
    const HeldTurn turn = dynamic_cast<StreamOwner&>(*inner_).Settle();
    return arrival;
  }
  void UploadTo(const Tensor& host, const Tensor& to) override { inner_->UploadTo(host, to); }
  void Copy(const Tensor& from, const Tensor& to) override { inner_->Copy(from, to); }
  void Synchronize() override { inner_->Synchronize(); }
  int64_t FreeBytes() override { return inner_->FreeBytes(); }
  // A float model's ops take what they need and give it back, each for itself, and have heads of
  // any size.
  int64_t Reserve(const StepLimits& limits) override {
    return limits.kv_grid == KvGrid::kFloat ? 0 : inner_->Reserve(limits);
  }
  std::unique_ptr<TimePoint> Mark() override { return inner_->Mark(); }
  bool RunsAhead() const override { return inner_->RunsAhead(); }
  // A float model's attention is launched for the contexts of one step, and its kernels look for
  // the sequence of every token, which a decode step's fillers have none of.
  bool GainsByRecording() const override { return false; }
  std::unique_ptr<Recording> Record(std::function<void()> body) override {
    return inner_->Record(std::move(body));
  }

  std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) override {
    Validate(spec);
    const LinearPart& first = spec.parts[0];
    const bool codes = std::any_of(spec.parts.begin(), spec.parts.end(),
                                   [](const LinearPart& part) { return part.i4.codes.defined(); });
    // lm_head may be read with BF16 borders as well as with F32 ones.
    const bool narrow = spec.parts.size() == 1 && !first.bias.defined() && first.weight.defined() &&
                        first.weight.dtype() == DType::kBF16;
    if (codes || narrow) return inner_->Prepare(std::move(spec));
    return std::make_shared<F32Linear>(spec, stream_);
  }
  std::shared_ptr<const PreparedLinear> PrepareRandom(const RandomLinearSpec& spec) override {
    return inner_->PrepareRandom(spec);
  }
  Tensor RandomBf16(Shape shape, float spread, uint64_t seed) override {
    return inner_->RandomBf16(std::move(shape), spread, seed);
  }

  void Embed(const EmbedArgs& args) override {
    if (!IsF32(args.out) || args.table.dtype() == DType::kF16) return inner_->Embed(args);
    Validate(args);
    inner_->Synchronize();
    LaunchEmbedF32(args.ids.as<int32_t>(),
                   args.chosen.defined() ? args.chosen.as<int32_t>() : nullptr, args.table.data(),
                   args.table.dtype(), args.ids.dim(0), args.table.dim(1), args.out.as<float>(),
                   stream_->get());
  }
  void RmsNorm(const RmsNormArgs& args) override {
    if (!IsF32(args.x) || !IsF32(args.out.values)) return inner_->RmsNorm(args);
    Validate(args);
    LaunchRmsNormF32(args.x.as<float>(), args.weight.as<float>(), args.eps, args.x.dim(0),
                     args.x.dim(1), args.out.values.as<float>(), stream_->get());
  }
  void Quantize(const QuantizeArgs& args) override { inner_->Quantize(args); }
  void Linear(const LinearArgs& args) override;
  void RopeKvWrite(const RopeKvWriteArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) override {
    if (!IsF32(x)) return inner_->GatherRows(x, rows, out);
    ValidateGatherRows(x, rows, out);
    LaunchGatherRowsF32(x.as<float>(), rows.as<int32_t>(), rows.dim(0), x.dim(1), out.as<float>(),
                        stream_->get());
  }
  void Sample(const SampleArgs& args) override { inner_->Sample(args); }

 private:
  struct Sequence {
    int64_t number, first_token, queries, keys;
  };

  Tensor Floats(Shape shape) { return AllocateDevice(stream_, DType::kF32, std::move(shape)); }
  Tensor WideWeight(const PreparedLinear& w);
  void AttendShortSequences(const AttentionArgs& args);
  void AttendSequence(const AttentionArgs& args, const Sequence& sequence);

  std::unique_ptr<Backend> inner_;
  std::shared_ptr<Stream> stream_;
  F32Gemm gemm_;
};

// A BF16 matrix (lm_head) is widened for the call.
Tensor F32Backend::WideWeight(const PreparedLinear& w) {
  if (const auto* wide = dynamic_cast<const F32Linear*>(&w)) return wide->weight;
  const Tensor& narrow = dynamic_cast<const Sm90Linear&>(w).bf16;
  Tensor out = Floats(narrow.shape());
  LaunchBf16ToF32(narrow.as<bf16_t>(), narrow.num_elements(), out.as<float>(), stream_->get());
  return out;
}

void F32Backend::Linear(const LinearArgs& args) {
  if (!IsF32(args.x.values) || args.w->quantized()) return inner_->Linear(args);
  Validate(args);
  FIREQ_CHECK(!args.largest.defined(), kUnsupported, "the largest outputs of an F32 linear");
  const int64_t tokens = args.x.values.dim(0), n = args.w->n(), k = args.w->k();
  if (tokens == 0) return;
  const auto* wide = dynamic_cast<const F32Linear*>(args.w);
  const Tensor weight = WideWeight(*args.w);
  const float* bias = wide != nullptr && wide->bias.defined() ? wide->bias.as<float>() : nullptr;
  const bool silu = args.epilogue == Epilogue::kSiluMul;
  const bool adds = args.epilogue == Epilogue::kResidual;
  if (adds && args.residual.data() != args.y.data()) inner_->Copy(args.residual, args.y);
  const Tensor sums = silu ? Floats({tokens, n}) : args.y;
  gemm_.Run({.m = tokens,
             .n = n,
             .k = k,
             .a = {args.x.values.as<float>(), k},
             .b = {weight.as<float>(), k, Turn::kYes},
             .c = sums.as<float>(),
             .c_stride = n,
             .beta = adds ? 1.0f : 0.0f});
  if (silu) {
    LaunchSiluMul(sums.as<float>(), bias, tokens, n / 2, args.y.as<float>(), stream_->get());
  } else if (bias != nullptr) {
    LaunchAddBias(bias, tokens, n, args.y.as<float>(), stream_->get());
  }
}

void F32Backend::RopeKvWrite(const RopeKvWriteArgs& args) {
  if (!IsF32(args.qkv)) return inner_->RopeKvWrite(args);
  Validate(args);
  FIREQ_CHECK(args.kv.layout.grid == KvGrid::kFloat && IsF32(args.q.values) && !args.qk_hadamard,
              kUnsupported,
              "F32 borders with a quantised cache, E4M3 queries or a Hadamard transform of Q and K "
              "on the GPU: the CPU backend runs them");
  const BatchView& batch = *args.batch;
  const auto own = std::reduce(batch.query_lens.begin(), batch.query_lens.end(), int64_t{0});
  FIREQ_CHECK(own == batch.num_tokens, kUnsupported, "a step of ", batch.num_tokens,
              " tokens over a float cache on the GPU, of which ", own, " are some sequence's");
  RopeF32Params launch;
  launch.qkv = args.qkv.as<float>();
  SetRopeArgs(args, launch);
  launch.q = args.q.values.as<float>();
  launch.layout = args.kv.layout;
  launch.positions = batch.positions.as<int32_t>();
  launch.num_tokens = static_cast<int32_t>(batch.num_tokens);
  LaunchRopeKvWriteF32(launch, stream_->get());
}

void F32Backend::Attention(const AttentionArgs& args) {
  if (args.kv.layout.grid != KvGrid::kFloat) return inner_->Attention(args);
  Validate(args);
  FIREQ_CHECK(IsF32(args.q.values) && IsF32(args.out) && !args.e4m3_probs, kUnsupported,
              "attention over a float cache on the GPU is FP32 throughout");
  const BatchView& batch = *args.batch;
  if (batch.num_sequences > 1 && batch.max_context <= kPagedAttentionMaxContext)
    return AttendShortSequences(args);
  int64_t token = 0;
  for (size_t s = 0; s < batch.query_lens.size(); ++s) {
    const int64_t queries = batch.query_lens[s];
    AttendSequence(args, {static_cast<int64_t>(s), token, queries, batch.context_lens[s]});
    token += queries;
  }
}

// Products of one sequence and head would be thousands of launches.
void F32Backend::AttendShortSequences(const AttentionArgs& args) {
  const BatchView& batch = *args.batch;
  LaunchPagedAttentionF32({.q = args.q.values.as<float>(),
                           .pages = args.kv.pages.as<uint8_t>(),
                           .layout = args.kv.layout,
                           .query_start = batch.query_start.as<int32_t>(),
                           .context_len = batch.context_len.as<int32_t>(),
                           .page_table = batch.page_table.as<int32_t>(),
                           .max_pages = batch.page_table.dim(1),
                           .num_tokens = static_cast<int32_t>(batch.num_tokens),
                           .num_heads = static_cast<int32_t>(args.num_heads),
                           .max_context = static_cast<int32_t>(batch.max_context),
                           .scale = 1.0f / std::sqrt(static_cast<float>(args.kv.layout.head_dim)),
                           .out = args.out.as<float>()},
                          stream_->get());
}

void F32Backend::AttendSequence(const AttentionArgs& args, const Sequence& s) {
  if (s.queries == 0) return;
  const KvPageLayout& layout = args.kv.layout;
  const int64_t dim = layout.head_dim, heads = args.num_heads, kv_heads = layout.kv_heads;
  const int64_t group = heads / kv_heads;
  const Tensor k = Floats({kv_heads, s.keys, dim}), v = Floats({kv_heads, s.keys, dim});
  const Tensor& table = args.batch->page_table;
  LaunchGatherKv(args.kv.pages.as<uint8_t>(), layout, table.as<int32_t>() + s.number * table.dim(1),
                 s.keys, k.as<float>(), v.as<float>(), stream_->get());
  const Tensor scores = Floats({group, s.queries, s.keys});
  for (int64_t h = 0; h < kv_heads; ++h) {
    const int64_t at = (s.first_token * heads + h * group) * dim;
    gemm_.Run({.m = s.queries,
               .n = s.keys,
               .k = dim,
               .a = {args.q.values.as<float>() + at, heads * dim, Turn::kNo, dim},
               .b = {k.as<float>() + h * s.keys * dim, dim, Turn::kYes, 0},
               .c = scores.as<float>(),
               .c_stride = s.keys,
               .batches = group,
               .c_batch = s.queries * s.keys});
    LaunchCausalSoftmax(scores.as<float>(), group, s.queries, s.keys,
                        1.0f / std::sqrt(static_cast<float>(dim)), stream_->get());
    gemm_.Run({.m = s.queries,
               .n = dim,
               .k = s.keys,
               .a = {scores.as<float>(), s.keys, Turn::kNo, s.queries * s.keys},
               .b = {v.as<float>() + h * s.keys * dim, dim, Turn::kNo, 0},
               .c = args.out.as<float>() + at,
               .c_stride = heads * dim,
               .batches = group,
               .c_batch = dim});
  }
}

}  // namespace
}  // namespace sm90

std::unique_ptr<Backend> MakeSm90FloatBackend(int device) {
  return std::make_unique<sm90::F32Backend>(device);
}

}  // namespace fireq
