#include "fireq/backends/sm90/backend/sm90_backend.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/attn_prefill/launch.h"
#include "fireq/backends/sm90/backend/bf16_gemm.h"
#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/backend/prepared.h"
#include "fireq/backends/sm90/elementwise/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/token_rows/launch.h"
#include "fireq/ops/validate.h"

namespace fireq {
namespace sm90 {
namespace {

// Sequences of up to this many new tokens go through the decode kernel.
constexpr int64_t kDecodeQueries = 8;

void CheckBorder(const Tensor& tensor, const char* what) {
  FIREQ_CHECK(
      tensor.dtype() == DType::kBF16, kUnsupported, what, " is ", Name(tensor.dtype()),
      ": the GPU runs quantised checkpoints with BF16 borders; the CPU backend runs the rest");
}

QuantizedRows Rows(const ActTensor& tensor) {
  return {tensor.values.as<uint8_t>(), tensor.scale.as<float>(), tensor.sums.as<float>()};
}

class Sm90Backend final : public Backend {
 public:
  explicit Sm90Backend(int device)
      : stream_(std::make_shared<Stream>()), device_(QueryGemmDevice()), bf16_gemm_(stream_) {
    KeepFreedMemory(device);
    cudaDeviceProp properties{};
    FIREQ_CUDA(cudaGetDeviceProperties(&properties, device));
    name_ = StrCat("cuda:", device, " (", properties.name, ")");
  }

  std::string name() const override { return name_; }
  Tensor Allocate(DType dtype, Shape shape) override {
    return AllocateDevice(stream_, dtype, std::move(shape));
  }
  Tensor Upload(const Tensor& host) override { return UploadTensor(host, stream_); }
  Tensor Download(const Tensor& tensor) override {
    Tensor out = Tensor::Empty(tensor.dtype(), tensor.shape());
    FIREQ_CUDA(cudaMemcpyAsync(out.data(), tensor.data(), static_cast<size_t>(tensor.size_bytes()),
                               cudaMemcpyDeviceToHost, stream_->get()));
    stream_->Synchronize();
    return out;
  }
  void Copy(const Tensor& from, const Tensor& to) override {
    ValidateCopy(from, to);
    FIREQ_CUDA(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(from.size_bytes()),
                               cudaMemcpyDeviceToDevice, stream_->get()));
  }
  void Synchronize() override { stream_->Synchronize(); }

  std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) override {
    Validate(spec);
    return std::make_shared<Sm90Linear>(std::move(spec), stream_);
  }

  void Embed(const EmbedArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override;
  void Quantize(const QuantizeArgs& args) override;
  void Linear(const LinearArgs& args) override;
  void RopeKvWrite(const RopeKvWriteArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) override;

 private:
  void Decode(const AttentionArgs& args);
  void Prefill(const AttentionArgs& args);

  std::string name_;
  std::shared_ptr<Stream> stream_;
  GemmDevice device_;
  Bf16Gemm bf16_gemm_;
  std::map<int64_t, Tensor> decode_workspaces_;  // by size; zeroed once, as the kernel wants it
  // The prefill plan of the last batch and what it was made for: every layer of a step uses the
  // same.
  std::vector<int32_t> planned_query_lens_, planned_context_lens_;
  AttnPrefillPlan prefill_plan_;
  Tensor prefill_items_;
};

void Sm90Backend::Embed(const EmbedArgs& args) {
  Validate(args);
  CheckBorder(args.table, "the embedding");
  CheckBorder(args.out, "the residual stream");
  LaunchEmbed(args.ids.as<int32_t>(), args.table.as<bf16_t>(), args.ids.dim(0), args.table.dim(1),
              args.out.as<bf16_t>(), stream_->get());
}

void Sm90Backend::GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  ValidateGatherRows(x, rows, out);
  CheckBorder(x, "the residual stream");
  LaunchGatherRows(x.as<bf16_t>(), rows.as<int32_t>(), rows.dim(0), x.dim(1), out.as<bf16_t>(),
                   stream_->get());
}

void Sm90Backend::RmsNorm(const RmsNormArgs& args) {
  Validate(args);
  CheckBorder(args.x, "the residual stream");
  const int64_t rows = args.x.dim(0);
  const int64_t k = args.x.dim(1);
  if (args.out.values.dtype() == DType::kE4M3) {
    RmsNormQuantArgs launch;
    launch.x = args.x.as<bf16_t>();
    launch.weight = args.weight.as<float>();
    launch.eps = args.eps;
    launch.rows = rows;
    launch.k = k;
    launch.out = Rows(args.out);
    LaunchRmsNormQuant(launch, stream_->get());
    return;
  }
  CheckBorder(args.out.values, "the output of a norm");
  LaunchRmsNorm(args.x.as<bf16_t>(), args.weight.as<float>(), args.eps, rows, k,
                args.out.values.as<bf16_t>(), stream_->get());
}

void Sm90Backend::Quantize(const QuantizeArgs& args) {
  Validate(args);
  CheckBorder(args.x, "the input of a token quantisation");
  LaunchQuantizeRows({args.x.as<bf16_t>(), args.x.dim(0), args.x.dim(1), Rows(args.out)},
                     stream_->get());
}

void Sm90Backend::Linear(const LinearArgs& args) {
  Validate(args);
  const auto& w = dynamic_cast<const Sm90Linear&>(*args.w);
  if (!w.quantized()) {
    CheckBorder(args.x.values, "the input of a BF16 linear");
    FIREQ_CHECK(args.epilogue == Epilogue::kNone && args.y.dtype() == DType::kF32, kUnsupported,
                "a linear kept in BF16 inside a block: the CPU backend runs such checkpoints");
    bf16_gemm_.Run(args.x.values, w.bf16, args.y);
    return;
  }
  FIREQ_CHECK(args.x.values.dtype() == DType::kE4M3, kUnsupported, "activations are ",
              Name(args.x.values.dtype()), ": the GPU kernels take E4M3");
  CheckBorder(args.y, "the output of a linear");
  const int64_t tokens = args.x.values.dim(0);
  if (tokens == 0) return;
  GemmI4F8Args gemm;
  gemm.layout = w.layout;
  gemm.tiles = w.tiles.as<uint8_t>();
  gemm.row_scales = w.row_scales.as<float>();
  gemm.bias = w.bias.defined() ? w.bias.as<float>() : nullptr;
  gemm.m = tokens;
  gemm.x = args.x.values.as<uint8_t>();
  gemm.x_scales = args.x.scale.as<float>();
  gemm.x_sums = args.x.sums.as<float>();
  gemm.epilogue = args.epilogue == Epilogue::kResidual  ? GemmEpilogue::kResidual
                  : args.epilogue == Epilogue::kSiluMul ? GemmEpilogue::kSiluMul
                                                        : GemmEpilogue::kPlain;
  gemm.residual = args.residual.defined() ? args.residual.data() : nullptr;
  gemm.y = args.y.data();
  LaunchGemmI4F8(MakeGemmPlan({tokens, w.layout.n, w.layout.k}, args.products, device_), gemm,
                 stream_->get());
}

void Sm90Backend::RopeKvWrite(const RopeKvWriteArgs& args) {
  Validate(args);
  CheckBorder(args.qkv, "the output of the QKV GEMM");
  FIREQ_CHECK(args.q.values.dtype() == DType::kE4M3, kUnsupported, "queries are ",
              Name(args.q.values.dtype()), ": the GPU's attention takes E4M3");
  const auto floats = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.as<float>() : nullptr;
  };
  const BatchView& batch = *args.batch;
  RopeKvWriteParams launch;
  launch.qkv = args.qkv.as<bf16_t>();
  launch.query_start = batch.query_start.as<int32_t>();
  launch.context_len = batch.context_len.as<int32_t>();
  launch.page_table = batch.page_table.as<int32_t>();
  launch.rope_cos = floats(args.rope_cos);
  launch.rope_sin = floats(args.rope_sin);
  launch.q_norm = floats(args.q_norm);
  launch.k_norm = floats(args.k_norm);
  launch.crs_q = floats(args.crs_q);
  launch.crs_k = floats(args.crs_k);
  launch.norm_eps = args.norm_eps;
  launch.hadamard = args.qk_hadamard;
  launch.grid = args.kv.layout.grid;
  launch.q = args.q.values.as<uint8_t>();
  launch.scale_q = args.q.scale.as<float>();
  launch.pages = args.kv.pages.as<uint8_t>();
  launch.num_sequences = static_cast<int32_t>(batch.num_sequences);
  launch.max_query_len = static_cast<int32_t>(batch.max_query_len);
  launch.num_heads = static_cast<int32_t>(args.num_heads);
  launch.kv_heads = args.kv.layout.kv_heads;
  launch.max_pages = static_cast<int32_t>(batch.page_table.dim(1));
  LaunchRopeKvWrite(launch, args.kv.layout.head_dim, stream_->get());
}

void Sm90Backend::Attention(const AttentionArgs& args) {
  Validate(args);
  FIREQ_CHECK(args.kv.layout.grid != KvGrid::kFloat && args.q.values.dtype() == DType::kE4M3,
              kUnsupported, "the GPU's attention needs E4M3 queries over an INT4 cache");
  CheckBorder(args.out, "the output of attention");
  if (args.batch->num_tokens == 0) return;
  if (args.batch->max_query_len <= kDecodeQueries) {
    Decode(args);
  } else {
    Prefill(args);
  }
}

void Sm90Backend::Decode(const AttentionArgs& args) {
  const BatchView& batch = *args.batch;
  const AttnDecodePlan plan = MakeAttnDecodePlan({.num_sequences = batch.num_sequences,
                                                  .num_heads = args.num_heads,
                                                  .kv_heads = args.kv.layout.kv_heads,
                                                  .head_dim = args.kv.layout.head_dim,
                                                  .max_query_len = batch.max_query_len,
                                                  .num_sms = device_.num_sms});
  Tensor& workspace = decode_workspaces_[plan.workspace_bytes];
  if (!workspace.defined()) {
    workspace = Allocate(DType::kU8, {plan.workspace_bytes});
    FIREQ_CUDA(cudaMemsetAsync(workspace.data(), 0, static_cast<size_t>(plan.workspace_bytes),
                               stream_->get()));
  }
  AttnDecodeArgs launch;
  launch.tensors = {.q = args.q.values.as<uint8_t>(),
                    .scale_q = args.q.scale.as<float>(),
                    .pages = args.kv.pages.as<uint8_t>(),
                    .query_start = batch.query_start.as<int32_t>(),
                    .context_len = batch.context_len.as<int32_t>(),
                    .page_table = batch.page_table.as<int32_t>(),
                    .out = args.out.as<bf16_t>(),
                    .workspace = static_cast<float*>(workspace.data()),
                    .num_sequences = static_cast<int32_t>(batch.num_sequences),
                    .num_heads = static_cast<int32_t>(args.num_heads),
                    .kv_heads = args.kv.layout.kv_heads,
                    .max_pages = static_cast<int32_t>(batch.page_table.dim(1))};
  launch.e4m3_probs = args.e4m3_probs;
  LaunchAttnDecodeI4(plan, launch, stream_->get());
}

void Sm90Backend::Prefill(const AttentionArgs& args) {
  const BatchView& batch = *args.batch;
  if (planned_query_lens_ != batch.query_lens || planned_context_lens_ != batch.context_lens) {
    prefill_plan_ =
        MakeAttnPrefillPlan(batch.query_lens, batch.context_lens, args.num_heads,
                            args.kv.layout.kv_heads, args.kv.layout.head_dim, device_.num_sms);
    const Tensor items = Tensor::Empty(
        DType::kU8, {static_cast<int64_t>(prefill_plan_.items.size() * sizeof(AttnPrefillItem))});
    std::memcpy(items.data(), prefill_plan_.items.data(), static_cast<size_t>(items.size_bytes()));
    prefill_items_ = Upload(items);
    planned_query_lens_ = batch.query_lens;
    planned_context_lens_ = batch.context_lens;
  }
  AttnPrefillArgs launch;
  AttnPrefillParams& tensors = launch.tensors;
  tensors.q = args.q.values.as<uint8_t>();
  tensors.scale_q = args.q.scale.as<float>();
  tensors.pages = args.kv.pages.as<uint8_t>();
  tensors.page_table = batch.page_table.as<int32_t>();
  tensors.items = static_cast<const AttnPrefillItem*>(prefill_items_.data());
  tensors.out = args.out.as<bf16_t>();
  tensors.num_items = static_cast<int32_t>(prefill_plan_.items.size());
  tensors.num_heads = static_cast<int32_t>(args.num_heads);
  tensors.kv_heads = args.kv.layout.kv_heads;
  tensors.max_pages = static_cast<int32_t>(batch.page_table.dim(1));
  launch.e4m3_probs = args.e4m3_probs;
  LaunchAttnPrefill(prefill_plan_, launch, stream_->get());
}

}  // namespace
}  // namespace sm90

bool HasSm90() { return sm90::HasHopper(); }

std::unique_ptr<Backend> MakeSm90Backend(int device) {
  FIREQ_CUDA(cudaSetDevice(device));
  FIREQ_CHECK(sm90::HasHopper(), kUnsupported, "CUDA device ", device,
              " is no Hopper GPU (compute capability 9.0)");
  return std::make_unique<sm90::Sm90Backend>(device);
}

}  // namespace fireq
