#include "fireq/backends/sm90/backend/sm90_backend.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "fireq/backends/sm90/backend/arrivals.h"
#include "fireq/backends/sm90/backend/awaited_codes.h"
#include "fireq/backends/sm90/backend/awaited_gemms.h"
#include "fireq/backends/sm90/backend/awaited_rope.h"
#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/backend/gemm_args.h"
#include "fireq/backends/sm90/backend/paged_attention.h"
#include "fireq/backends/sm90/backend/prepared.h"
#include "fireq/backends/sm90/backend/recording.h"
#include "fireq/backends/sm90/backend/stream_owner.h"
#include "fireq/backends/sm90/backend/stream_turns.h"
#include "fireq/backends/sm90/backend/upload_ring.h"
#include "fireq/backends/sm90/elementwise/launch.h"
#include "fireq/backends/sm90/gemm_bf16/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/random_weights/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/sample_logits/launch.h"
#include "fireq/backends/sm90/token_rows/launch.h"
#include "fireq/ops/validate.h"

namespace fireq {
namespace sm90 {
namespace {

void CheckBorder(const Tensor& tensor, const char* what) {
  FIREQ_CHECK(
      tensor.dtype() == DType::kBF16, kUnsupported, what, " is ", Name(tensor.dtype()),
      ": the GPU runs quantised checkpoints with BF16 borders; the CPU backend runs the rest");
}

// One variant whatever the number of tokens: a row's sums run along K in one order.
GemmPlan BatchInvariantPlan(const GemmShape& shape, Products products, const GemmDevice& device) {
  FIREQ_CHECK(products == Products::kTable, kUnsupported,
              "the GPU's batch-invariant linears compute table products only");
  constexpr int kWideCluster = 2;
  return MakeForcedGemmPlan(shape, FindGemmVariant("table_128x128"), kWideCluster, device);
}

class Sm90Backend final : public Backend, public StreamOwner {
 public:
  explicit Sm90Backend(int device)
      : stream_(std::make_shared<Stream>()),
        party_(device, stream_),
        device_(QueryGemmDevice()),
        gemm_workspace_(GemmWorkspaceBytes(device_)),
        largest_workspace_(GemmBf16WorkspaceBytes()),
        awaited_gemms_(device_),
        attention_(stream_, ring_, device_.num_sms) {
    KeepFreedMemory(device);
    FIREQ_CUDA(cudaMemsetAsync(gemm_workspace_.data(), 0,
                               static_cast<size_t>(gemm_workspace_.size_bytes()), stream_->get()));
    cudaDeviceProp properties{};
    FIREQ_CUDA(cudaGetDeviceProperties(&properties, device));
    name_ = StrCat("cuda:", device, " (", properties.name, ")");
  }

  std::string name() const override { return name_; }
  const Stream& stream() const override { return *stream_; }
  std::shared_ptr<Stream> shared_stream() const override { return stream_; }
  HeldTurn Settle() override { return Begin(); }
  void Await(AwaitedSum sum) override {
    const HeldTurn turn = Begin();
    awaited_sum_ = std::move(sum);
  }
  bool SendLinear(const LinearArgs& args, const PeerEnd& to) override;
  bool PartOfLinear(const LinearArgs& args, int64_t first, const Tensor& y) override;
  bool LargestOfRanks(const LinearArgs& args, const PeerEnd& end) override;
  Tensor Allocate(DType dtype, Shape shape) override {
    return AllocateDevice(stream_, dtype, std::move(shape));
  }
  Tensor Upload(const Tensor& host) override {
    Tensor out = Allocate(host.dtype(), host.shape());
    UploadTo(host, out);
    return out;
  }
  void UploadTo(const Tensor& host, const Tensor& to) override {
    ValidateCopy(host, to);
    attention_.Forget();
    arrivals_.QueueWith(to, [&](const SmallCopy& download) {
      HeldTurn turn = party_.Take();
      MakeAwaited();
      turn.unlock();  // the upload may wait for the stream
      ring_.Upload(host, to, *stream_, download);
    });
  }
  Tensor Download(const Tensor& tensor) override {
    Begin(tensor.data()).unlock();
    Tensor out = Tensor::Empty(tensor.dtype(), tensor.shape());
    FIREQ_CUDA(cudaMemcpyAsync(out.data(), tensor.data(), static_cast<size_t>(tensor.size_bytes()),
                               cudaMemcpyDeviceToHost, stream_->get()));
    stream_->Synchronize();
    return out;
  }
  std::unique_ptr<Arrival> StartDownload(const Tensor& tensor) override {
    const HeldTurn turn = Begin(tensor.data());
    return arrivals_.Start(tensor);
  }
  void Copy(const Tensor& from, const Tensor& to) override {
    ValidateCopy(from, to);
    attention_.Forget();
    const HeldTurn turn = Begin(from.data());
    FIREQ_CUDA(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(from.size_bytes()),
                               cudaMemcpyDeviceToDevice, stream_->get()));
  }
  void Synchronize() override {
    Begin().unlock();
    stream_->Synchronize();
  }
  int64_t FreeBytes() override {
    size_t free = 0, total = 0;
    FIREQ_CUDA(cudaMemGetInfo(&free, &total));
    return static_cast<int64_t>(free);
  }

  int64_t Reserve(const StepLimits& limits) override;

  std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) override {
    Validate(spec);
    return std::make_shared<Sm90Linear>(std::move(spec), stream_);
  }
  std::shared_ptr<const PreparedLinear> PrepareRandom(const RandomLinearSpec& spec) override {
    Validate(spec);
    return std::make_shared<Sm90Linear>(spec, stream_);
  }
  Tensor RandomBf16(Shape shape, float spread, uint64_t seed) override {
    Tensor out = Allocate(DType::kBF16, std::move(shape));
    LaunchRandomBf16(seed, out.num_elements(), spread, out.as<bf16_t>(), stream_->get());
    return out;
  }

  // The GEMM has no FP32 output: FP16 is three bits finer than BF16.
  DType LogitType(const PreparedLinear& lm_head) const override {
    return lm_head.quantized() ? DType::kF16 : DType::kF32;
  }
  bool FindsLargest(const PreparedLinear& lm_head) const override { return !lm_head.quantized(); }
  std::unique_ptr<TimePoint> Mark() override {
    const HeldTurn turn = Begin();
    return std::make_unique<DeviceTimePoint>(*stream_);
  }
  bool RunsAhead() const override { return true; }
  bool GainsByRecording() const override { return true; }
  std::unique_ptr<Recording> Record(std::function<void()> body) override {
    const HeldTurn turn = Begin();
    attention_.Forget();  // a recording prepares its own steps,
    const struct ForgetsBehind {
      PagedAttention& attention;
      ~ForgetsBehind() { attention.Forget(); }  // which has not been run then
    } forgets_behind{attention_};
    const auto ops = [&] {
      try {
        body();
        MakeCodes();
      } catch (...) {
        DropAwaited();
        throw;
      }
    };
    return std::make_unique<GraphRecording>(stream_, ops, [this] {
      attention_.Forget();
      return Begin();
    });
  }

  void Embed(const EmbedArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override;
  void Quantize(const QuantizeArgs& args) override;
  void Linear(const LinearArgs& args) override;
  void RopeKvWrite(const RopeKvWriteArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) override;
  void Sample(const SampleArgs& args) override;

 private:
  // The turn of an op that reads `wanted`, or none of the codes that a linear might make for
  // itself: what earlier ops left is queued. All that waits for CTAs is queued inside a turn.
  [[nodiscard]] HeldTurn Begin(const void* wanted = nullptr) {
    HeldTurn turn = party_.Take();
    MakeCodes(wanted);
    return turn;
  }
  void MakeCodes(const void* wanted = nullptr) {
    arrivals_.Settle();
    MakeAwaited(wanted);
  }
  void MakeAwaited(const void* wanted = nullptr) {
    MakeAwaitedFirst();
    awaited_gemms_.Make(stream_->get());
    awaited_.Make(stream_->get(), wanted);
    ForgetEarlyRows();
  }
  // Of a recording that there will not be.
  void DropAwaited() {
    awaited_gemms_.Drop();
    awaited_rope_.Drop();
    awaited_.Drop();
    awaited_sum_.reset();
    early_ = {};
  }
  // What is queued now may write there, and is what a reader then waits for. At once, in stream
  // order: a recording that is replayed next counts from zero, too.
  void ForgetEarlyRows() {
    const RowsReady rows = std::exchange(early_, {}).rows;
    if (rows.before > 0)  // no one has read those, and set the counts back
      FIREQ_CUDA(cudaMemsetAsync(rows.counts, 0, rows.count_bytes(), stream_->get()));
  }
  // What every op but the one that may take it along finds queued.
  void MakeFirst() {
    arrivals_.Settle();
    MakeAwaitedFirst();
  }
  void MakeAwaitedFirst() {
    if (awaited_rope_.Pending()) awaited_gemms_.Make(stream_->get());  // what it reads
    awaited_rope_.Make(stream_->get());
    if (awaited_sum_) std::exchange(awaited_sum_, std::nullopt)->run();
  }
  // Codes that a linear may make for itself. Of several rows, or if none has taken those before, a
  // kernel is queued now.
  void AskForCodes(const CodesToMake& codes) {
    if (codes.x.dim(0) > 1 || awaited_.Pending()) awaited_gemms_.Make(stream_->get());
    awaited_.Ask(codes, stream_->get());
  }
  bool SumWithNorm(const CodesToMake& codes);
  bool RunResident(const LinearArgs& args, const GemmShape& shape, GemmI4F8Args gemm);

  const Tensor& HalfLogits(int64_t count);
  void LogitsOfInt4(const LinearArgs& args, const Sm90Linear& w);
  void LogitsOfBf16(const LinearArgs& args, const Sm90Linear& w);
  void RunGemm(const LinearArgs& args, const Sm90Linear& w, OutType out, void* y);
  GemmPlan Plan(const LinearArgs& args, const GemmShape& shape) const;

  std::string name_;
  std::shared_ptr<Stream> stream_;
  StreamParty party_;
  UploadRing ring_;
  Arrivals arrivals_{stream_};
  GemmDevice device_;
  DeviceBuffer<uint8_t> gemm_workspace_;
  DeviceBuffer<uint8_t> largest_workspace_;
  Tensor half_logits_;
  AwaitedCodes awaited_;
  AwaitedGemms awaited_gemms_;
  std::optional<AwaitedSum> awaited_sum_;
  AwaitedRope awaited_rope_{device_.num_sms};
  // Rows of y that a GEMM of x has announced and no one has read.
  struct {
    RowsReady rows;
    const void *x = nullptr, *y = nullptr;
  } early_;
  PagedAttention attention_;
};

int64_t Sm90Backend::Reserve(const StepLimits& limits) { return attention_.Reserve(limits); }

const Tensor& Sm90Backend::HalfLogits(int64_t count) {
  if (!half_logits_.defined() || half_logits_.num_elements() < count)
    half_logits_ = Allocate(DType::kF16, {count});
  return half_logits_;
}

void Sm90Backend::Embed(const EmbedArgs& args) {
  Validate(args);
  attention_.Forget();  // a step begins
  const HeldTurn turn = Begin();
  CheckBorder(args.table, "the embedding");
  CheckBorder(args.out, "the residual stream");
  LaunchEmbed(args.ids.as<int32_t>(), args.chosen.defined() ? args.chosen.as<int32_t>() : nullptr,
              args.table.as<bf16_t>(), args.ids.dim(0), args.table.dim(1), args.out.as<bf16_t>(),
              stream_->get());
}

void Sm90Backend::GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  ValidateGatherRows(x, rows, out);
  const HeldTurn turn = Begin();
  CheckBorder(x, "the residual stream");
  LaunchGatherRows(x.as<bf16_t>(), rows.as<int32_t>(), rows.dim(0), x.dim(1), out.as<bf16_t>(),
                   stream_->get());
}

void Sm90Backend::RmsNorm(const RmsNormArgs& args) {
  Validate(args);
  CheckBorder(args.x, "the residual stream");
  const HeldTurn turn = party_.Take();
  if (args.out.values.dtype() == DType::kE4M3) {
    const CodesToMake codes{args.x, args.weight, args.eps, args.out,
                            args.reduction == Reduction::kFastest};
    if (SumWithNorm(codes)) return;
    MakeFirst();
    return AskForCodes(codes);
  }
  MakeCodes();
  CheckBorder(args.out.values, "the output of a norm");
  LaunchRmsNorm(args.x.as<bf16_t>(), args.weight.as<float>(), args.eps, args.x.dim(0),
                args.x.dim(1), args.out.values.as<bf16_t>(), stream_->get());
}

// Whether the sum that awaits is the norm's input and took the norm along.
bool Sm90Backend::SumWithNorm(const CodesToMake& codes) {
  if (!awaited_sum_ || awaited_sum_->values != codes.x.data() ||
      !awaited_sum_->run_with_norm(codes))
    return false;
  awaited_sum_.reset();
  awaited_.MadeElsewhere(codes.out.values.data());
  return true;
}

void Sm90Backend::Quantize(const QuantizeArgs& args) {
  Validate(args);
  const HeldTurn turn = party_.Take();
  MakeFirst();
  CheckBorder(args.x, "the input of a token quantisation");
  FIREQ_CHECK(args.out.values.dtype() == DType::kE4M3, kUnsupported, "activations are ",
              Name(args.out.values.dtype()), ": the GPU kernels take E4M3");
  CodesToMake codes{.x = args.x, .out = args.out};
  // The GEMM may still be reading where its own codes are.
  if (early_.y == args.x.data() && early_.x != args.out.values.data() &&
      args.x.dim(0) > early_.rows.before)
    codes.ready = std::exchange(early_.rows, {});
  AskForCodes(codes);
}

// Of any reduction: a row's sums run along K in one order.
void Sm90Backend::LogitsOfBf16(const LinearArgs& args, const Sm90Linear& w) {
  MakeCodes();
  CheckBorder(args.x.values, "the input of a BF16 linear");
  const bool logits = !args.y.defined() || args.y.dtype() == DType::kF32;
  FIREQ_CHECK(args.epilogue == Epilogue::kNone && logits, kUnsupported,
              "a linear kept in BF16 inside a block: the CPU backend runs such checkpoints");
  GemmBf16Args gemm = MakeGemm(args, w.bf16);
  if (args.y.defined()) gemm.y = args.y.as<float>();
  if (args.largest.defined()) {
    attention_.Forget();
    gemm.largest = args.largest.as<int32_t>();
  }
  gemm.workspace = largest_workspace_.data();
  LaunchGemmBf16(gemm, stream_->get());
}

void Sm90Backend::Linear(const LinearArgs& args) {
  Validate(args, DType::kF16);
  const HeldTurn turn = party_.Take();
  MakeFirst();
  const auto& w = dynamic_cast<const Sm90Linear&>(*args.w);
  if (!w.quantized()) return LogitsOfBf16(args, w);
  FIREQ_CHECK(!args.largest.defined(), kUnsupported, "the largest outputs of an INT4 linear");
  FIREQ_CHECK(args.x.values.dtype() == DType::kE4M3, kUnsupported, "activations are ",
              Name(args.x.values.dtype()), ": the GPU kernels take E4M3");
  const int64_t tokens = args.x.values.dim(0);
  if (tokens == 0) return;
  if (args.y.dtype() == DType::kF32) return LogitsOfInt4(args, w);
  if (args.y.dtype() == LogitType(w)) return RunGemm(args, w, OutType::kF16, args.y.data());
  CheckBorder(args.y, "the output of a linear");
  RunGemm(args, w, OutType::kBf16, args.y.data());
}

// Of a BF16 matrix.
bool Sm90Backend::PartOfLinear(const LinearArgs& args, int64_t first, const Tensor& y) {
  Validate(args, DType::kF16);
  const auto& w = dynamic_cast<const Sm90Linear&>(*args.w);
  if (w.quantized() || args.x.values.dtype() != DType::kBF16 || args.y.dtype() != DType::kF32 ||
      args.epilogue != Epilogue::kNone)
    return false;
  const HeldTurn turn = Begin();
  GemmBf16Args gemm = MakeGemm(args, w.bf16.Rows(first, first + y.dim(1)));
  gemm.y = y.as<float>();
  LaunchGemmBf16(gemm, stream_->get());
  return true;
}

bool Sm90Backend::LargestOfRanks(const LinearArgs& args, const PeerEnd& end) {
  Validate(args, DType::kF16);
  const auto& w = dynamic_cast<const Sm90Linear&>(*args.w);
  if (w.quantized() || args.x.values.dtype() != DType::kBF16) return false;
  const HeldTurn turn = Begin();
  const int64_t width = w.n() / end.layout.ranks, first = width * end.rank;
  GemmBf16Args gemm = MakeGemm(args, w.bf16.Rows(first, first + width));
  attention_.Forget();
  gemm.largest = args.largest.as<int32_t>();
  gemm.workspace = largest_workspace_.data();
  gemm.end = &end;
  gemm.first = static_cast<int32_t>(first);
  LaunchGemmBf16(gemm, stream_->get());
  return true;
}

// For who reads logits.
void Sm90Backend::LogitsOfInt4(const LinearArgs& args, const Sm90Linear& w) {
  FIREQ_CHECK(args.epilogue == Epilogue::kNone, kUnsupported,
              "FP32 results of an INT4 linear with an epilogue");
  const Tensor& halves = HalfLogits(args.y.num_elements());
  RunGemm(args, w, OutType::kF16, halves.data());
  awaited_gemms_.Make(stream_->get());
  LaunchHalfToFloat(halves.as<uint16_t>(), args.y.num_elements(), args.y.as<float>(),
                    stream_->get());
}

bool Sm90Backend::SendLinear(const LinearArgs& args, const PeerEnd& to) {
  Validate(args, DType::kF16);
  const auto& w = dynamic_cast<const Sm90Linear&>(*args.w);
  if (!w.quantized() || args.x.values.dtype() != DType::kE4M3) return false;
  const GemmPlan plan = Plan(args, ShapeOf(args, w));
  if (!plan.kernel().sends()) return false;
  const HeldTurn turn = Begin(args.x.values.data());
  GemmI4F8Args gemm = MakeGemm(args, w);
  gemm.epilogue = GemmEpilogue::kSend;
  gemm.end = &to;
  gemm.workspace = gemm_workspace_.data();
  LaunchGemmI4F8(plan, gemm, stream_->get());
  return true;
}

GemmPlan Sm90Backend::Plan(const LinearArgs& args, const GemmShape& shape) const {
  return args.reduction == Reduction::kBatchInvariant
             ? BatchInvariantPlan(shape, args.products, device_)
             : MakeGemmPlan(shape, args.products, device_);
}

void Sm90Backend::RunGemm(const LinearArgs& args, const Sm90Linear& w, OutType out, void* y) {
  GemmI4F8Args gemm = MakeGemm(args, w);
  gemm.epilogue = args.epilogue == Epilogue::kResidual  ? GemmEpilogue::kResidual
                  : args.epilogue == Epilogue::kSiluMul ? GemmEpilogue::kSiluMul
                                                        : GemmEpilogue::kPlain;
  gemm.residual = args.residual.defined() ? args.residual.data() : nullptr;
  gemm.out = out;
  gemm.y = y;
  gemm.workspace = gemm_workspace_.data();
  const GemmShape shape = ShapeOf(args, w);
  if (RunResident(args, shape, gemm)) return;
  MakeCodes(gemm.x);
  const GemmPlan plan = Plan(args, shape);
  // What becomes of gate and up is quantised next.
  gemm.announces = args.epilogue == Epilogue::kSiluMul;
  LaunchGemmI4F8(plan, gemm, stream_->get());
  if (!gemm.announces) return;
  early_ = {RowsReadyEarly(plan, gemm), gemm.x, y};
}

// Whether the codes of `gemm` are awaited, and the linear made them for itself.
bool Sm90Backend::RunResident(const LinearArgs& args, const GemmShape& shape, GemmI4F8Args gemm) {
  const CodesToMake* codes = awaited_.Find(gemm.x);
  if (codes == nullptr || codes->x.dim(0) != shape.m ||
      args.reduction == Reduction::kBatchInvariant)
    return false;
  const std::optional<GemmPlan> plan = MakeResidentGemmPlan(shape, args.products, device_);
  if (!plan) return false;
  gemm.bf16_x = codes->x.as<bf16_t>();
  gemm.norm = codes->norm.defined() ? codes->norm.as<float>() : nullptr;
  gemm.norm_eps = codes->eps;
  awaited_gemms_.Ask(gemm, *plan, args, *codes, stream_->get());
  awaited_.MadeByReader(gemm.y);
  return true;
}

void Sm90Backend::RopeKvWrite(const RopeKvWriteArgs& args) {
  Validate(args);
  const HeldTurn turn = party_.Take();
  if (awaited_gemms_.AwaitsAttention(args.qkv.data()) && awaited_rope_.MayAwait(args) &&
      !awaited_rope_.Pending() && !awaited_.Pending()) {
    arrivals_.Settle();
    awaited_.Make(stream_->get());
  } else {
    MakeCodes();
  }
  CheckBorder(args.qkv, "the output of the QKV GEMM");
  FIREQ_CHECK(args.q.values.dtype() == DType::kE4M3, kUnsupported, "queries are ",
              Name(args.q.values.dtype()), ": the GPU's attention takes E4M3");
  const bool prepared = attention_.Prepare(args);
  awaited_rope_.Ask(args, /*programmatic=*/!prepared, stream_->get());
}

void Sm90Backend::Attention(const AttentionArgs& args) {
  Validate(args);
  const HeldTurn turn = party_.Take();
  const AskedRope* rope = awaited_rope_.Find(args);
  if (rope == nullptr) MakeCodes();
  FIREQ_CHECK(args.kv.layout.grid != KvGrid::kFloat && args.q.values.dtype() == DType::kE4M3,
              kUnsupported, "the GPU's attention needs E4M3 queries over an INT4 cache");
  CheckBorder(args.out, "the output of attention");
  if (rope == nullptr || !awaited_gemms_.AskAttention(args, *rope, stream_->get())) {
    awaited_gemms_.Make(stream_->get());
    attention_.Run(args, rope == nullptr ? nullptr : &rope->launch);
  }
  awaited_rope_.MadeByAttention();
}

void Sm90Backend::Sample(const SampleArgs& args) {
  Validate(args, DType::kF16);
  attention_.Forget();
  const HeldTurn turn = Begin();
  SampleLogitsParams launch;
  launch.logits = args.logits.data();
  launch.half_logits = args.logits.dtype() == DType::kF16;
  launch.rows = static_cast<const SampleRowParams*>(args.params.data());
  launch.history = args.history.defined() ? args.history.as<int32_t>() : nullptr;
  launch.out = args.out.as<int32_t>();
  launch.ids = args.ids.defined() ? args.ids.as<int32_t>() : nullptr;
  launch.num_rows = args.logits.dim(0);
  launch.vocab = static_cast<int32_t>(args.logits.dim(1));
  launch.max_logprobs = static_cast<int32_t>(args.max_logprobs);
  LaunchSampleLogits(launch, stream_->get());
}

}  // namespace
}  // namespace sm90

bool HasSm90() { return sm90::HasHopper(); }
std::string WhyOldDriver() { return sm90::OldDriver(); }

std::unique_ptr<Backend> MakeSm90Backend(int device) {
  sm90::UseHopper(device);
  return std::make_unique<sm90::Sm90Backend>(device);
}

}  // namespace fireq
