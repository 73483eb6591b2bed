#include "fireq/backends/sm90/backend/step_lists.h"

#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/backend/device_memory.h"

namespace fireq::sm90 {

StepLists::Made StepLists::Of(const AttnDecodePlan& plan, const AttnDecodeParams& tensors) {
  const Step step{
      tensors.query_start, tensors.context_len, tensors.page_table, tensors.num_sequences,
      tensors.num_heads,   tensors.kv_heads,    tensors.max_pages,  plan.ctas};
  if (made_ && made_->first == step) return {made_->second, false};
  made_.reset();
  void* lists = Memory(plan.lists_bytes);
  LaunchDecodeLists(plan, tensors, lists, stream_->get());
  made_ = {step, lists};
  return {lists, true};
}

int64_t StepLists::Reserve(int64_t bytes) {
  Memory(bytes);
  int64_t held = 0;
  for (const auto& [size, memory] : memory_) held += size;
  return held;
}

void* StepLists::Memory(int64_t bytes) {
  auto memory = memory_.lower_bound(bytes);
  if (memory == memory_.end())
    memory = memory_.emplace(bytes, AllocateDevice(stream_, DType::kU8, {bytes})).first;
  return memory->second.data();
}

}  // namespace fireq::sm90
