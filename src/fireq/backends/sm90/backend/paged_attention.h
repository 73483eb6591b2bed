// Attention over the INT4 cache: which sequences go through which kernel, and what the kernels need
// from one step to the next.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/attn_prefill/plan.h"
#include "fireq/backends/sm90/backend/step_lists.h"
#include "fireq/backends/sm90/backend/upload_ring.h"
#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/ops/args.h"

namespace fireq::sm90 {

// One stream. `ring` outlives it.
class PagedAttention {
 public:
  PagedAttention(std::shared_ptr<Stream> stream, UploadRing& ring, int64_t num_sms)
      : stream_(std::move(stream)), ring_(ring), num_sms_(num_sms), lists_(stream_) {}

  // Of checked args: E4M3 queries, BF16 output. With `rope`, of the same step, which decodes alone,
  // what RopeKvWrite would do first. Errors: kCuda.
  void Run(const AttentionArgs& args, const RopeKvWriteParams* rope);
  // Of a step whose RopeKvWrite is asked for: queues what its attention needs, whatever the layer,
  // and has not got. Returns whether it did, and what is queued next must be an ordinary launch.
  bool Prepare(const RopeKvWriteArgs& args);
  // What a batch's arrays hold may change now, or a recording is run, which prepares its own steps.
  void Forget() { lists_.Forget(); }
  // As Backend::Reserve.
  int64_t Reserve(const StepLimits& limits);

 private:
  struct DecodeStep {
    AttnDecodePlan plan;
    AttnDecodeParams tensors;  // lengths, page table and shape
  };
  DecodeStep StepOf(const BatchView& batch, int64_t num_sequences, int64_t max_query_len,
                    int64_t num_heads, const KvPageLayout& layout, bool writes_tokens) const;
  void Decode(const AttentionArgs& args, int64_t num_sequences, int64_t max_query_len,
              const RopeKvWriteParams* rope);
  void Prefill(const AttentionArgs& args, int64_t first_sequence);
  const Tensor& DecodeWorkspace(int64_t bytes);
  const Tensor& PrefillWorkspace(int64_t bytes);  // so large, or larger
  const Tensor& PrefillProgress(int64_t bytes);   // the same
  Tensor UploadBytes(std::span<const std::byte> bytes);

  std::shared_ptr<Stream> stream_;
  UploadRing& ring_;
  int64_t num_sms_;
  PrefillUnpackPolicy unpack_policy_;
  std::map<int64_t, Tensor> decode_workspaces_;  // by size; zeroed once, as the kernel wants it
  StepLists lists_;
  // The prefill plan of the last batch and what it was made for: every layer of a step uses the
  // same.
  struct PrefillShape {
    std::vector<int32_t> query_lens, context_lens;
    int64_t first_sequence = 0, num_heads = 0, kv_heads = 0, head_dim = 0;
    bool operator==(const PrefillShape&) const = default;
  };
  std::optional<PrefillShape> planned_;
  AttnPrefillPlan prefill_plan_;
  Tensor prefill_items_;
  Tensor prefill_pieces_;
  Tensor prefill_tiles_;
  Tensor prefill_workspace_;  // the largest of the plans so far
  Tensor prefill_progress_;   // the same; zeroed once, as the kernel wants it
};

}  // namespace fireq::sm90
