#include "fireq/engine/token_sampler.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

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

TokenChoice Unpack(const int32_t* out, int64_t num_logprobs) {
  TokenChoice choice{.id = out[0]};
  if (choice.id < 0 || num_logprobs < 0) return choice;
  choice.logprob = std::bit_cast<float>(out[1]);
  const int32_t* pair = out + kSampleHead;
  for (int64_t i = 0; i < num_logprobs && pair[0] >= 0; ++i, pair += 2)
    choice.top.push_back({pair[0], std::bit_cast<float>(pair[1])});
  return choice;
}

class ArrivingTokens final : public ChosenTokens {
 public:
  ArrivingTokens(std::unique_ptr<Arrival> out, std::span<const SampleRow> rows)
      : out_(std::move(out)) {
    for (const SampleRow& row : rows) num_logprobs_.push_back(row.params->num_logprobs);
  }
  std::vector<TokenChoice> Wait() override {
    const Tensor out = out_->Wait();
    std::vector<TokenChoice> choices;
    const int32_t* row = out.as<int32_t>();
    for (const int64_t num_logprobs : num_logprobs_) {
      choices.push_back(Unpack(row, num_logprobs));
      row += out.dim(1);
    }
    return choices;
  }

 private:
  std::unique_ptr<Arrival> out_;
  std::vector<int64_t> num_logprobs_;
};

class ArrivingIds final : public ChosenTokens {
 public:
  explicit ArrivingIds(std::unique_ptr<Arrival> ids) : ids_(std::move(ids)) {}
  std::vector<TokenChoice> Wait() override {
    const Tensor ids = ids_->Wait();
    std::vector<TokenChoice> choices;
    for (int64_t i = 0; i < ids.dim(0); ++i) choices.push_back({.id = ids.as<int32_t>()[i]});
    return choices;
  }

 private:
  std::unique_ptr<Arrival> ids_;
};

}  // namespace

std::unique_ptr<ChosenTokens> StartArrival(Backend& backend, const Tensor& ids) {
  return std::make_unique<ArrivingIds>(backend.StartDownload(ids));
}

int64_t BackendTokenSampler::SizeBytes(int64_t max_rows, int64_t max_context) {
  return max_rows * (static_cast<int64_t>(sizeof(SampleRowParams)) +
                     4 * (kSampleHead + 2 * kMaxLogprobs + max_context));
}

const Tensor& BackendTokenSampler::Upload(std::vector<SampleRowParams> params) {
  if (uploaded_.defined() && params == params_) return uploaded_;
  params_ = std::move(params);
  const auto rows = static_cast<int64_t>(params_.size());
  const Tensor host =
      Tensor::Empty(DType::kU8, {rows, static_cast<int64_t>(sizeof(SampleRowParams))});
  std::memcpy(host.data(), params_.data(), static_cast<size_t>(host.size_bytes()));
  uploaded_ = {};  // its memory first
  uploaded_ = backend_.Upload(host);
  return uploaded_;
}

std::unique_ptr<ChosenTokens> BackendTokenSampler::Start(const Tensor& logits,
                                                         std::span<const SampleRow> rows,
                                                         const Tensor& ids) {
  PackedRows packed(rows);
  const int64_t count = static_cast<int64_t>(rows.size());
  SampleArgs args{.logits = logits, .params = Upload(std::move(packed.params))};
  if (!packed.history.empty())
    args.history = backend_.Upload(Tensor::FromVector(
        DType::kI32, {static_cast<int64_t>(packed.history.size())}, packed.history));
  args.max_logprobs = packed.max_logprobs;
  args.out = backend_.Allocate(DType::kI32, {count, kSampleHead + 2 * args.max_logprobs});
  args.ids = ids;
  backend_.Sample(args);
  return std::make_unique<ArrivingTokens>(backend_.StartDownload(args.out), rows);
}

}  // namespace fireq
