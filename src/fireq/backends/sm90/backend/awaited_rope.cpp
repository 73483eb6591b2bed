#include "fireq/backends/sm90/backend/awaited_rope.h"

#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/backend/rope_args.h"
#include "fireq/backends/sm90/backend/short_sequences.h"

namespace fireq::sm90 {
namespace {

// Of all sequences.
RopeKvWriteParams MakeRopeParams(const RopeKvWriteArgs& args) {
  RopeKvWriteParams launch;
  launch.qkv = args.qkv.as<bf16_t>();
  SetRopeArgs(args, launch);
  if (args.key_shift.defined()) launch.key_shift = args.key_shift.as<float>();
  launch.hadamard = args.qk_hadamard;
  launch.grid = args.kv.layout.grid;
  launch.q = args.q.values.as<uint8_t>();
  launch.scale_q = args.q.scale.as<float>();
  launch.kv_heads = args.kv.layout.kv_heads;
  launch.max_query_len = static_cast<int32_t>(args.batch->max_query_len);
  return launch;
}

void Launch(RopeKvWriteParams launch, const BatchView& batch, int head_dim, cudaStream_t stream) {
  // Token numbers in query_start are the step's, so a part of the sequences is pointers further
  // on.
  const int64_t decoding = ShortSequences(batch);
  for (const auto& [begin, end, max_query_len] :
       {SequenceRange{0, decoding, ShortQueryLen(batch)},
        SequenceRange{decoding, batch.num_sequences, batch.max_query_len}}) {
    if (begin == end) continue;
    launch.query_start = batch.query_start.as<int32_t>() + begin;
    launch.context_len = batch.context_len.as<int32_t>() + begin;
    launch.page_table = batch.page_table.as<int32_t>() + begin * batch.page_table.dim(1);
    launch.num_sequences = static_cast<int32_t>(end - begin);
    launch.max_query_len = static_cast<int32_t>(max_query_len);
    LaunchRopeKvWrite(launch, head_dim, stream);
  }
}

}  // namespace

bool AwaitedRope::MayAwait(const RopeKvWriteArgs& args) const {
  const BatchView& batch = *args.batch;
  const AttnDecodeShape shape{.num_sequences = batch.num_sequences,
                              .num_heads = args.num_heads,
                              .kv_heads = args.kv.layout.kv_heads,
                              .max_query_len = batch.max_query_len,
                              .num_sms = num_sms_};
  return DecodeCanWriteTokens(shape, args.q_norm.defined() || args.k_norm.defined(),
                              args.qk_hadamard);
}

void AwaitedRope::Ask(const RopeKvWriteArgs& args, bool programmatic, cudaStream_t stream) {
  Make(stream);
  RopeKvWriteParams launch = MakeRopeParams(args);
  launch.programmatic = programmatic;
  if (!MayAwait(args)) return Launch(launch, *args.batch, args.kv.layout.head_dim, stream);
  awaited_ = {args, *args.batch, launch};
}

const AskedRope* AwaitedRope::Find(const AttentionArgs& args) const {
  if (!awaited_) return nullptr;
  const BatchView& batch = *args.batch;
  const bool same = awaited_->launch.q == args.q.values.data() &&
                    awaited_->launch.pages == args.kv.pages.data() &&
                    awaited_->launch.page_table == batch.page_table.data() &&
                    awaited_->launch.context_len == batch.context_len.data() &&
                    awaited_->launch.query_start == batch.query_start.data() &&
                    awaited_->batch.num_sequences == batch.num_sequences;
  return same && DecodedSequences(batch, args.reduction).end == batch.num_sequences ? &*awaited_
                                                                                    : nullptr;
}

void AwaitedRope::Make(cudaStream_t stream) {
  if (!awaited_) return;
  const AskedRope rope = *awaited_;
  awaited_.reset();
  Launch(rope.launch, rope.batch, rope.args.kv.layout.head_dim, stream);
}

}  // namespace fireq::sm90
