#include "fireq/backends/sm90/backend/paged_attention.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/attn_prefill/launch.h"
#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/backend/prefill_of_batch.h"
#include "fireq/backends/sm90/backend/short_sequences.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

constexpr int64_t kBudgetShare = 8;  // of the memory budget, that unpacked tiles may be

}  // namespace

void PagedAttention::Run(const AttentionArgs& args, const RopeKvWriteParams* rope) {
  const BatchView& batch = *args.batch;
  if (batch.num_tokens == 0) return;
  const SequenceRange decoded = DecodedSequences(batch, args.reduction);
  if (decoded.end > 0) Decode(args, decoded.end, decoded.max_query_len, rope);
  if (decoded.end < batch.num_sequences) Prefill(args, decoded.end);
}

int64_t PagedAttention::Reserve(const StepLimits& limits) {
  // Of the most and of the fewest query rows a tile; of any number of sequences.
  for (const int64_t max_query_len : {int64_t{1}, kDecodeQueries}) {
    const AttnDecodePlan plan = MakeAttnDecodePlan({.num_sequences = 1,
                                                    .num_heads = limits.num_heads,
                                                    .kv_heads = limits.kv_heads,
                                                    .head_dim = limits.head_dim,
                                                    .max_query_len = max_query_len,
                                                    .num_sms = num_sms_});
    DecodeWorkspace(plan.workspace_bytes);
  }
  // Lists of the most sequences that have some, which are the longest.
  const AttnDecodePlan most = MakeAttnDecodePlan(
      {.num_sequences = std::min<int64_t>(limits.max_sequences, kDecodeMostListed),
       .num_heads = limits.num_heads,
       .kv_heads = limits.kv_heads,
       .head_dim = limits.head_dim,
       .num_sms = num_sms_,
       .max_pages = CeilDiv<int64_t>(limits.max_context, kTokensPerPage)});
  int64_t held = most.finishes ? lists_.Reserve(most.lists_bytes) : 0;
  for (const auto& [bytes, workspace] : decode_workspaces_) held += bytes;
  // Unpacked tiles only make prompts faster, so they leave most of a small budget to pages.
  unpack_policy_.workspace_limit =
      std::min(PrefillUnpackPolicy{}.workspace_limit, limits.memory_bytes / kBudgetShare);
  const PrefillMemory prefill = MaxPrefillMemory({.max_tokens = limits.max_tokens,
                                                  .max_sequences = limits.max_sequences,
                                                  .max_context = limits.max_context,
                                                  .num_heads = limits.num_heads,
                                                  .kv_heads = limits.kv_heads,
                                                  .head_dim = limits.head_dim,
                                                  .num_sms = num_sms_},
                                                 unpack_policy_);
  held += PrefillWorkspace(prefill.workspace).size_bytes();
  held += PrefillProgress(prefill.progress).size_bytes();
  return held + 2 * prefill.lists;  // of two steps behind each other
}

const Tensor& PagedAttention::PrefillWorkspace(int64_t bytes) {
  if (!prefill_workspace_.defined() || prefill_workspace_.size_bytes() < bytes)
    prefill_workspace_ = AllocateDevice(stream_, DType::kU8, {bytes});
  return prefill_workspace_;
}

const Tensor& PagedAttention::PrefillProgress(int64_t bytes) {
  if (!prefill_progress_.defined() || prefill_progress_.size_bytes() < bytes) {
    prefill_progress_ = AllocateDevice(stream_, DType::kU8, {bytes});
    FIREQ_CUDA(
        cudaMemsetAsync(prefill_progress_.data(), 0, static_cast<size_t>(bytes), stream_->get()));
  }
  return prefill_progress_;
}

const Tensor& PagedAttention::DecodeWorkspace(int64_t bytes) {
  Tensor& workspace = decode_workspaces_[bytes];
  if (!workspace.defined()) {
    workspace = AllocateDevice(stream_, DType::kU8, {bytes});
    FIREQ_CUDA(cudaMemsetAsync(workspace.data(), 0, static_cast<size_t>(bytes), stream_->get()));
  }
  return workspace;
}

PagedAttention::DecodeStep PagedAttention::StepOf(const BatchView& batch, int64_t num_sequences,
                                                  int64_t max_query_len, int64_t num_heads,
                                                  const KvPageLayout& layout,
                                                  bool writes_tokens) const {
  const int64_t max_pages = batch.page_table.dim(1);
  return {.plan = MakeAttnDecodePlan({.num_sequences = num_sequences,
                                      .num_heads = num_heads,
                                      .kv_heads = layout.kv_heads,
                                      .head_dim = layout.head_dim,
                                      .max_query_len = max_query_len,
                                      .num_sms = num_sms_,
                                      .max_pages = max_pages,
                                      .writes_tokens = writes_tokens}),
          .tensors = {.query_start = batch.query_start.as<int32_t>(),
                      .context_len = batch.context_len.as<int32_t>(),
                      .page_table = batch.page_table.as<int32_t>(),
                      .num_sequences = static_cast<int32_t>(num_sequences),
                      .num_heads = static_cast<int32_t>(num_heads),
                      .kv_heads = layout.kv_heads,
                      .max_pages = static_cast<int32_t>(max_pages)}};
}

bool PagedAttention::Prepare(const RopeKvWriteArgs& args) {
  const BatchView& batch = *args.batch;
  const int64_t num_sequences = ShortSequences(batch);
  if (num_sequences == 0 || num_sequences > kDecodeMostListed ||
      args.kv.layout.grid == KvGrid::kFloat)
    return false;
  const DecodeStep step = StepOf(batch, num_sequences, ShortQueryLen(batch), args.num_heads,
                                 args.kv.layout, /*writes_tokens=*/false);
  return step.plan.finishes && lists_.Of(step.plan, step.tensors).now;
}

void PagedAttention::Decode(const AttentionArgs& args, int64_t num_sequences, int64_t max_query_len,
                            const RopeKvWriteParams* rope) {
  const auto& [plan, tensors] = StepOf(*args.batch, num_sequences, max_query_len, args.num_heads,
                                       args.kv.layout, rope != nullptr);
  AttnDecodeArgs launch;
  launch.tensors = tensors;
  launch.tensors.q = args.q.values.as<uint8_t>();
  launch.tensors.scale_q = args.q.scale.as<float>();
  launch.tensors.pages = args.kv.pages.as<uint8_t>();
  launch.tensors.out = args.out.as<bf16_t>();
  launch.tensors.workspace = static_cast<float*>(DecodeWorkspace(plan.workspace_bytes).data());
  launch.e4m3_probs = args.e4m3_probs;
  launch.programmatic = true;
  launch.rope = rope;
  if (plan.finishes) {
    const auto [lists, now] = lists_.Of(plan, tensors);
    launch.lists = lists;
    launch.programmatic = !now;
  }
  LaunchAttnDecodeI4(plan, launch, stream_->get());
}

Tensor PagedAttention::UploadBytes(std::span<const std::byte> bytes) {
  const Tensor host = Tensor::Empty(DType::kU8, {std::ssize(bytes)});
  std::copy(bytes.begin(), bytes.end(), static_cast<std::byte*>(host.data()));
  Tensor out = AllocateDevice(stream_, host.dtype(), host.shape());
  ring_.Upload(host, out, *stream_);
  return out;
}

// Sequences from `first_sequence` on.
void PagedAttention::Prefill(const AttentionArgs& args, int64_t first_sequence) {
  const BatchView& batch = *args.batch;
  PrefillShape shape{batch.query_lens, batch.context_lens,      first_sequence,
                     args.num_heads,   args.kv.layout.kv_heads, args.kv.layout.head_dim};
  if (planned_ != shape) {
    planned_.reset();  // an upload may throw
    prefill_plan_ = PlanPrefill(batch, first_sequence, args.num_heads, args.kv.layout.kv_heads,
                                args.kv.layout.head_dim, num_sms_, unpack_policy_);
    prefill_items_ = UploadBytes(std::as_bytes(std::span(prefill_plan_.items)));
    prefill_pieces_ = UploadBytes(std::as_bytes(std::span(prefill_plan_.pieces)));
    prefill_tiles_ = UploadBytes(std::as_bytes(std::span(prefill_plan_.tiles)));
    planned_ = std::move(shape);
  }
  AttnPrefillArgs launch;
  AttnPrefillParams& tensors = launch.tensors;
  tensors.q = args.q.values.as<uint8_t>();
  tensors.scale_q = args.q.scale.as<float>();
  tensors.pages = args.kv.pages.as<uint8_t>();
  tensors.page_table = batch.page_table.as<int32_t>();
  tensors.items = static_cast<const AttnPrefillItem*>(prefill_items_.data());
  tensors.pieces = static_cast<const int32_t*>(prefill_pieces_.data());
  tensors.tiles = static_cast<const AttnPrefillTile*>(prefill_tiles_.data());
  tensors.workspace = PrefillWorkspace(prefill_plan_.workspace_bytes).data();
  tensors.progress = static_cast<uint32_t*>(PrefillProgress(prefill_plan_.progress_bytes).data());
  tensors.out = args.out.as<bf16_t>();
  tensors.num_heads = static_cast<int32_t>(args.num_heads);
  tensors.kv_heads = args.kv.layout.kv_heads;
  tensors.max_pages = static_cast<int32_t>(batch.page_table.dim(1));
  // Chunks of a prompt begin elsewhere in another batch, and so do runs of 64 rows.
  if (args.reduction == Reduction::kBatchInvariant) tensors.exact_limit = 0;
  launch.e4m3_probs = args.e4m3_probs;
  launch.programmatic = true;
  LaunchAttnPrefill(prefill_plan_, launch, stream_->get());
}

}  // namespace fireq::sm90
