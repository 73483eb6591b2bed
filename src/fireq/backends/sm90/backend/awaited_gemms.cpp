#include "fireq/backends/sm90/backend/awaited_gemms.h"

#include <algorithm>
#include <utility>

namespace fireq::sm90 {

AwaitedGemms::AwaitedGemms(const GemmDevice& device)
    : device_(device),
      meetings_(std::vector<uint32_t>{0}),
      exchange_(std::vector<uint8_t>(static_cast<size_t>(BlockExchangeBytes(device)), 0)) {}

// Where the linear goes on with what awaits; -1: nowhere.
int AwaitedGemms::PlaceOf(const GemmI4F8Args& gemm) const {
  const bool in_block = !awaited_.empty() && awaited_.front().link.place != kOPlace;
  const auto fits = [&](int place) {
    const bool does =
        in_block ? FitsBlockLink(gemm, place) : FitsGemmChain(gemm, static_cast<size_t>(place - 1));
    return does ? place : -1;
  };
  if (awaited_.empty()) return std::max(fits(kOPlace), blocks_ ? fits(kQkvPlace) : -1);
  const BlockLink& last = awaited_.back().link;
  if (in_block && !ReadsBlockLink(gemm, last)) return -1;
  return last.place == kQkvPlace ? -1 : fits(last.place + 1);
}

void AwaitedGemms::Ask(const GemmI4F8Args& gemm, const GemmPlan& plan, const LinearArgs& args,
                       const CodesToMake& codes, cudaStream_t stream) {
  if (PlaceOf(gemm) < 0) Make(stream);
  const int place = PlaceOf(gemm);
  if (place < 0) return LaunchGemmI4F8(plan, gemm, stream);
  if (awaited_.empty() && place == kOPlace) blocks_ = true;
  Awaited& linear = awaited_.emplace_back();
  linear.link.place = place;
  linear.link.gemm = gemm;
  linear.plan = plan;
  linear.args = args;
  linear.codes = codes;
  if (place == kQkvPlace && !blocks_) Make(stream);
}

bool AwaitedGemms::AwaitsAttention(const void* y) const {
  return blocks_ && !awaited_.empty() && awaited_.back().link.place == kQkvPlace &&
         awaited_.back().link.gemm.y == y && awaited_.front().link.place != kOPlace;
}

bool AwaitedGemms::AskAttention(const AttentionArgs& args, const AskedRope& rope,
                                cudaStream_t stream) {
  const BatchView& batch = *args.batch;
  if (!AwaitsAttention(rope.launch.qkv) || batch.num_sequences != 1 || batch.num_tokens != 1 ||
      !args.e4m3_probs ||
      !SpreadBlockHeads({.num_heads = args.num_heads,
                         .kv_heads = args.kv.layout.kv_heads,
                         .head_dim = args.kv.layout.head_dim,
                         .max_pages = batch.page_table.dim(1)},
                        device_))
    return false;
  const auto begun = std::count_if(awaited_.begin(), awaited_.end(), [](const Awaited& a) {
    return a.link.place == kAttentionPlace;
  });
  if (begun + 1 >= kMaxBlocks) Make(true, stream);
  Awaited& attention = awaited_.emplace_back();
  attention.link = {.place = kAttentionPlace, .rope = rope.launch, .out = args.out.as<bf16_t>()};
  attention.attention = args;
  attention.rope = rope;
  return true;
}

void AwaitedGemms::Make(bool goes_on, cudaStream_t stream) {
  const std::vector<Awaited> awaited = std::exchange(awaited_, {});  // a launch may throw
  if (awaited.empty()) return;
  const bool attends = goes_on || std::any_of(awaited.begin(), awaited.end(), [](const auto& a) {
                         return a.link.place == kAttentionPlace;
                       });
  if (attends) {
    // Where o is no such linear (its outputs are a part of a sum) attention would end every launch,
    // and is better one of its own.
    if (awaited.back().link.place == kAttentionPlace) blocks_ = false;
    std::vector<BlockLink> links;
    for (const Awaited& a : awaited) links.push_back(a.link);
    LaunchBlockChain(links, device_, goes_on, meetings_.data(), exchange_.data(), stream);
  } else if (awaited.size() == 1) {
    LaunchGemmI4F8(awaited[0].plan, awaited[0].link.gemm, stream);
  } else {
    std::vector<GemmI4F8Args> gemms;
    for (const Awaited& a : awaited) gemms.push_back(a.link.gemm);
    LaunchGemmChain(gemms, device_, meetings_.data(), stream);
  }
}

}  // namespace fireq::sm90
