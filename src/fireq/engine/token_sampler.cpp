#include "fireq/engine/token_sampler.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fireq {
namespace {

// Parameters of all rows, and one behind the other the histories of those that look at theirs.
struct PackedRows {
  explicit PackedRows(std::span<const SampleRow> rows) {
    for (const SampleRow& row : rows) {
      SampleRowParams& packed = params.emplace_back(MakeSampleRow(*row.params, row.draw));
      max_logprobs = std::max(max_logprobs, row.params->num_logprobs);
      if (row.params->repetition_penalty == 1.0f) continue;
      packed.history_begin = static_cast<int32_t>(history.size());
      history.insert(history.end(), row.history.begin(), row.history.end());
      packed.history_end = static_cast<int32_t>(history.size());
    }
  }
  std::vector<SampleRowParams> params;
  std::vector<int32_t> history;
  int64_t max_logprobs = 0;
};

TokenChoice Unpack(const int32_t* out, const SamplingParams& params) {
  TokenChoice choice{.id = out[0]};
  if (choice.id < 0 || params.num_logprobs < 0) return choice;
  choice.logprob = std::bit_cast<float>(out[1]);
  const int32_t* pair = out + kSampleHead;
  for (int64_t i = 0; i < params.num_logprobs && pair[0] >= 0; ++i, pair += 2)
    choice.top.push_back({pair[0], std::bit_cast<float>(pair[1])});
  return choice;
}

}  // namespace

int64_t BackendTokenSampler::SizeBytes(int64_t max_rows, int64_t max_context) {
  return max_rows * (static_cast<int64_t>(sizeof(SampleRowParams)) +
                     4 * (kSampleHead + 2 * kMaxLogprobs + max_context));
}

std::vector<TokenChoice> BackendTokenSampler::Sample(const Tensor& logits,
                                                     std::span<const SampleRow> rows) {
  const PackedRows packed(rows);
  const int64_t count = static_cast<int64_t>(rows.size());
  Tensor params = Tensor::Empty(DType::kU8, {count, static_cast<int64_t>(sizeof(SampleRowParams))});
  std::memcpy(params.data(), packed.params.data(), static_cast<size_t>(params.size_bytes()));
  SampleArgs args{.logits = logits, .params = backend_.Upload(params)};
  if (!packed.history.empty())
    args.history = backend_.Upload(Tensor::FromVector(
        DType::kI32, {static_cast<int64_t>(packed.history.size())}, packed.history));
  args.max_logprobs = packed.max_logprobs;
  args.out = backend_.Allocate(DType::kI32, {count, kSampleHead + 2 * args.max_logprobs});
  backend_.Sample(args);

  const Tensor out = backend_.Download(args.out);
  std::vector<TokenChoice> choices;
  for (int64_t r = 0; r < count; ++r)
    choices.push_back(
        Unpack(out.as<int32_t>() + r * out.dim(1), *rows[static_cast<size_t>(r)].params));
  return choices;
}

}  // namespace fireq
