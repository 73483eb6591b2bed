// Attention of many sequences reads lists that are made once for all layers of a step: never those
// of other lengths or of another page table, whatever changes them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/formats/bf16.h"
#include "tests/backends/sm90/needs_hopper.h"
#include "tests/support/reference_attention.h"

namespace fireq {
namespace {

using testing::AttentionCase;

constexpr int kSequences = 150;
constexpr int kHeads = 8;
constexpr KvPageLayout kLayout{KvGrid::kAsymmetric, 2, 64};

class StepListsOfSteps : public ::testing::Test {
 protected:
  void SetUp() override {
    FIREQ_NEEDS_HOPPER();
    gpu_ = MakeSm90Backend();
    std::vector<int32_t> contexts(kSequences);
    for (int32_t& context : contexts) context = 65 + static_cast<int32_t>(rng_() % 400);
    case_ = testing::MakeAttentionCase(
        {std::vector<int32_t>(kSequences, 1), contexts, kHeads, kLayout}, rng_());
    q_ = {Upload(DType::kE4M3, {kSequences, kHeads * kLayout.head_dim}, case_.q),
          Upload(DType::kF32, {kSequences, kHeads}, case_.q_scale),
          {}};
    const auto pages = static_cast<int64_t>(case_.pages.size()) / kLayout.page_bytes();
    kv_ = {Upload(DType::kU8, {pages, kLayout.page_bytes()}, case_.pages), kLayout};
    batch_.num_tokens = batch_.num_sequences = kSequences;
    batch_.max_query_len = 1;
    batch_.max_context = 465;
    batch_.query_start = Upload(DType::kI32, {kSequences + 1}, case_.query_start);
    batch_.context_len = Upload(DType::kI32, {kSequences}, case_.context_len);
    batch_.page_table = Upload(DType::kI32, {kSequences, case_.max_pages}, case_.page_table);
    batch_.query_lens.assign(kSequences, 1);
    batch_.context_lens = contexts;
    out_ = gpu_->Allocate(DType::kBF16, {kSequences, kHeads * kLayout.head_dim});
    other_out_ = gpu_->Allocate(DType::kBF16, out_.shape());
  }

  template <class T>
  static Tensor Host(DType dtype, Shape shape, const std::vector<T>& values) {
    Tensor host = Tensor::Empty(dtype, std::move(shape));
    std::memcpy(host.data(), values.data(), static_cast<size_t>(host.size_bytes()));
    return host;
  }
  template <class T>
  Tensor Upload(DType dtype, Shape shape, const std::vector<T>& values) {
    return gpu_->Upload(Host(dtype, std::move(shape), values));
  }

  // Other lengths, at least one.
  Tensor NewLengths() {
    for (int32_t& context : case_.context_len) context = 1 + static_cast<int32_t>(rng_() % 65);
    const size_t some = rng_() % kSequences;
    case_.context_len[some] = batch_.context_lens[some];
    return Host(DType::kI32, {kSequences}, case_.context_len);
  }
  // Another order of pages that are there.
  Tensor NewTable() {
    for (int s = 0; s < kSequences; ++s) {
      const auto row = case_.page_table.begin() + int64_t{s} * case_.max_pages;
      std::swap(row[0], row[1]);  // both full, but for sequences that end in the second
      if (case_.context_len[static_cast<size_t>(s)] < 128) std::swap(row[0], row[1]);
    }
    return Host(DType::kI32, {kSequences, case_.max_pages}, case_.page_table);
  }
  // Of two layers.
  void Attend() {
    for (const Tensor& out : {other_out_, out_})
      gpu_->Attention({.q = q_,
                       .kv = kv_,
                       .batch = &batch_,
                       .num_heads = kHeads,
                       .e4m3_probs = true,
                       .out = out});
  }
  void Poison() {
    Tensor host = Tensor::Empty(DType::kBF16, out_.shape());
    std::memset(host.data(), 0xFF, static_cast<size_t>(host.size_bytes()));
    gpu_->UploadTo(host, out_);
    gpu_->UploadTo(host, other_out_);
  }
  void ExpectOfTheCase(const char* what) {
    const auto expected = testing::ReferenceAttention(case_, testing::ProbRounding::kE4M3);
    for (const Tensor& out : {other_out_, out_}) {
      const Tensor host = gpu_->Download(out);
      std::vector<float> values;
      for (int64_t i = 0; i < host.num_elements(); ++i)
        values.push_back(Bf16ToFloat(host.as<bf16_t>()[i]));
      EXPECT_LE(testing::RelativeError(values, expected), 3e-3) << what;
    }
  }

  std::mt19937 rng_{std::random_device{}()};
  std::unique_ptr<Backend> gpu_;
  AttentionCase case_;
  ActTensor q_;
  KvLayer kv_;
  BatchView batch_;
  Tensor out_, other_out_;
};

TEST_F(StepListsOfSteps, UploadsAndCopiesAreSeen) {
  Attend();
  ExpectOfTheCase("at first");
  gpu_->UploadTo(NewTable(), batch_.page_table);
  Attend();
  ExpectOfTheCase("another page table");
  gpu_->UploadTo(NewLengths(), batch_.context_len);
  Attend();
  ExpectOfTheCase("other lengths");
  const Tensor lengths = gpu_->Upload(NewLengths());
  Attend();  // of those before
  gpu_->Copy(lengths, batch_.context_len);
  Attend();
  ExpectOfTheCase("copied lengths");
}

TEST_F(StepListsOfSteps, RecordingsMakeTheirOwn) {
  Attend();
  const auto recording = gpu_->Record([&] { Attend(); });
  Poison();
  Attend();  // what was recorded has not run
  ExpectOfTheCase("behind a recording");
  for (int run = 0; run < 3; ++run) {
    gpu_->UploadTo(NewLengths(), batch_.context_len);
    recording->Run();
    ExpectOfTheCase("a run");
  }
  // Lists of another step are overwritten by a run.
  BatchView other = batch_;
  other.context_len = gpu_->Upload(Host(DType::kI32, {kSequences}, case_.context_len));
  const AttentionCase same = case_;
  gpu_->UploadTo(NewLengths(), batch_.context_len);
  std::swap(batch_, other);
  Attend();
  std::swap(batch_, other);
  recording->Run();
  ExpectOfTheCase("a run between others");
  std::swap(batch_, other);
  case_ = same;
  Attend();
  ExpectOfTheCase("behind a run");
}

}  // namespace
}  // namespace fireq
