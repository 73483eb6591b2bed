// Decode attention on the device against the double-precision reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "fireq/backends/sm90/runtime/stream.h"
#include "tests/backends/sm90/attn_decode_i4/decode_on_device.h"

namespace fireq::sm90 {
namespace {

using testing::AttentionCase;
using testing::AttentionOnDevice;
using testing::DecodeArgs;
using testing::ExpectServedAttention;
using Case = testing::NamedAttentionCase;
using testing::MakeAttentionCase;
using testing::ProbRounding;
using testing::ReferenceAttention;
using testing::RelativeError;

class Runner {
 public:
  explicit Runner(const AttentionCase& c)
      : plan_(MakeAttnDecodePlan({c.num_sequences(), c.num_heads, c.layout.kv_heads,
                                  c.layout.head_dim, MaxQueryLen(c), NumSms(), c.max_pages})),
        workspace_(plan_.workspace_bytes / 4),
        lists_(std::max<int64_t>(plan_.lists_bytes, 1)) {
    workspace_.FillBytes(0);
    lists_.FillBytes(0xFF);
  }

  AttnDecodeArgs Args(const AttentionCase& c, const AttentionOnDevice& d) const {
    AttnDecodeArgs args = DecodeArgs(c, d, workspace_);
    args.lists = lists_.data();
    return args;
  }
  // Of a step whose layers are `layers` times the same, as dependent launches behind the first.
  void Queue(AttnDecodeArgs args, int layers, cudaStream_t stream) const {
    LaunchDecodeLists(plan_, args.tensors, lists_.data(), stream);
    for (int layer = 0; layer < layers; ++layer) {
      args.programmatic = layer > 0;
      LaunchAttnDecodeI4(plan_, args, stream);
    }
  }
  void Launch(const AttnDecodeArgs& args) const {
    Queue(args, 1, stream_.get());
    stream_.Synchronize();
  }
  const AttnDecodePlan& plan() const { return plan_; }

 private:
  static int MaxQueryLen(const AttentionCase& c) {
    int longest = 1;
    for (int s = 0; s < c.num_sequences(); ++s)
      longest = std::max(longest, c.query_start[s + 1] - c.query_start[s]);
    return longest;
  }
  AttnDecodePlan plan_;
  DeviceBuffer<float> workspace_;
  DeviceBuffer<uint8_t> lists_;
  Stream stream_;
};

class AttnDecodeI4Cases : public ::testing::TestWithParam<Case> {};

TEST_P(AttnDecodeI4Cases, MatchesTheReference) {
  FIREQ_NEEDS_HOPPER();
  const AttentionCase c = GetParam().Make();
  AttentionOnDevice device(c);
  const Runner runner(c);
  ExpectServedAttention(GetParam().name, c, [&](bool e4m3_probs) {
    device.out.FillBytes(0xFF);
    AttnDecodeArgs args = runner.Args(c, device);
    args.e4m3_probs = e4m3_probs;
    runner.Launch(args);
    return device.Output();
  });
}

constexpr KvGrid kAsym = KvGrid::kAsymmetric;
INSTANTIATE_TEST_SUITE_P(
    , AttnDecodeI4Cases,
    ::testing::Values(
        Case{"one page", {1}, {64}, 4, 1, 128, kAsym},
        Case{"edges", {1, 1, 1, 1, 1, 1}, {1, 63, 64, 65, 127, 1000}, 32, 8, 128, kAsym},
        Case{"empty", {1, 0, 1, 1, 0}, {0, 0, 17, 300, 70}, 32, 8, 128, kAsym},
        Case{"queries", {1, 8, 3, 5, 8, 2}, {1, 8, 70, 65, 700, 64}, 32, 8, 128, kAsym},
        Case{"two tiles", {4, 4, 3}, {100, 333, 64}, 32, 8, 128, kAsym},
        Case{"heads of 64", {1, 2, 1}, {1, 130, 2000}, 16, 4, 64, kAsym},
        Case{"64, queries", {8, 5}, {200, 2001}, 32, 8, 64, kAsym},
        Case{"mha", {1, 1, 3}, {77, 500, 900}, 8, 8, 128, kAsym},
        Case{"group of 7", {1, 8}, {300, 1000}, 28, 4, 128, kAsym},
        Case{"symmetric", {1, 2}, {100, 3000}, 32, 8, 128, KvGrid::kSymmetric},
        Case{"signed", {1, 2}, {100, 3000}, 32, 8, 128, KvGrid::kSigned},
        Case{"long", {1}, {40000}, 8, 2, 128, kAsym}),
    [](const auto& which) { return "Case" + std::to_string(which.index); });

TEST(AttnDecodeI4, ManyRaggedSequences) {
  FIREQ_NEEDS_HOPPER();
  std::mt19937 rng(std::random_device{}());
  std::vector<int32_t> queries(300, 1), contexts(300);
  for (int32_t& context : contexts) context = rng() % 8 == 0 ? 700 + rng() % 500 : 1 + rng() % 90;
  const AttentionCase c = MakeAttentionCase({queries, contexts, 8, {kAsym, 2, 128}}, rng());
  const AttentionOnDevice device(c);
  const Runner runner(c);
  runner.Launch(runner.Args(c, device));
  EXPECT_LE(RelativeError(device.Output(), ReferenceAttention(c, ProbRounding::kE4M3)), 3e-3);
}

// The output of one launch, which three more must have in every bit.
std::vector<float> SameOutputOfEachLaunch(const Runner& runner, const AttentionCase& c,
                                          AttentionOnDevice& device) {
  std::vector<float> first;
  for (int launch = 0; launch < 4; ++launch) {
    device.out.FillBytes(0xFF);
    runner.Launch(runner.Args(c, device));
    const std::vector<float> out = device.Output();
    if (launch == 0) first = out;
    EXPECT_EQ(0, std::memcmp(first.data(), out.data(), out.size() * sizeof(float))) << launch;
  }
  return first;
}

// `copies` times the same sequences, with the same pages.
AttentionCase Repeat(const AttentionCase& c, int copies) {
  AttentionCase all = c;
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (int i = 1; i < copies; ++i) {
    append(all.q, c.q);
    append(all.q_scale, c.q_scale);
    append(all.context_len, c.context_len);
    append(all.page_table, c.page_table);
    const int32_t tokens = all.query_start.back();
    for (int s = 1; s <= c.num_sequences(); ++s)
      all.query_start.push_back(tokens + c.query_start[s]);
  }
  return all;
}

// Several segments a CTA, which a warp of its own finishes: several launches, the same bits.
TEST(AttnDecodeI4, ManySegmentsACta) {
  FIREQ_NEEDS_HOPPER();
  std::mt19937 rng(std::random_device{}());
  for (const int kv_heads : {2, 8}) {
    std::vector<int32_t> queries(24, 1), contexts(24);
    for (int32_t& context : contexts) context = rng() % 8 == 0 ? rng() % 3 : 60 + rng() % 700;
    queries[rng() % 24] = 0;
    const AttentionCase c =
        MakeAttentionCase({queries, contexts, 8, {kAsym, kv_heads, 128}}, rng());
    const std::vector<double> reference = ReferenceAttention(c, ProbRounding::kE4M3);
    const int copies = 48 / kv_heads;
    const AttentionCase all = Repeat(c, copies);
    AttentionOnDevice device(all);
    const Runner runner(all);
    EXPECT_TRUE(runner.plan().finishes);
    const std::vector<float> first = SameOutputOfEachLaunch(runner, all, device);
    for (int i = 0; i < copies; ++i) {
      const auto begin = first.begin() + i * std::ssize(reference);
      const std::vector<float> copy(begin, begin + std::ssize(reference));
      EXPECT_LE(RelativeError(copy, reference), 3e-3) << i;
    }
  }
}

// Pieces of the line that cost alike: segments of one page next to each other among long ones.
TEST(AttnDecodeI4, ShortSegmentsAmongLongOnes) {
  FIREQ_NEEDS_HOPPER();
  std::mt19937 rng(std::random_device{}());
  const auto append = [](std::vector<int32_t>& to, int count, auto&& context) {
    for (int i = 0; i < count; ++i) to.push_back(static_cast<int32_t>(context()));
  };
  const auto is_long = [&] { return 500 + rng() % 500; };
  const auto is_short = [&] { return 1 + rng() % 64; };
  std::vector<std::vector<int32_t>> cases(5);
  append(cases[0], 200, is_long);
  append(cases[0], 56, [] { return 40; });
  append(cases[1], 60, is_short);
  append(cases[1], 80, is_long);
  append(cases[1], 60, [] { return 0; });
  append(cases[1], 60, [&] { return rng() % 700; });
  append(cases[2], 300, is_short);
  append(cases[3], 150, is_short);
  append(cases[3], 1, [] { return 30000; });
  append(cases[3], 150, is_short);
  append(cases[4], 200, [] { return 0; });
  append(cases[4], 1, is_long);
  for (const std::vector<int32_t>& contexts : cases) {
    std::vector<int32_t> queries(contexts.size(), 1);
    for (size_t s = 0; s < contexts.size(); ++s)  // a filler of a step has no token
      if (contexts[s] == 0) queries[s] = static_cast<int32_t>(rng() % 2);
    const AttentionCase c = MakeAttentionCase({queries, contexts, 8, {kAsym, 2, 64}}, rng());
    AttentionOnDevice device(c);
    const Runner runner(c);
    EXPECT_TRUE(runner.plan().finishes);
    const std::vector<float> first = SameOutputOfEachLaunch(runner, c, device);
    EXPECT_LE(RelativeError(first, ReferenceAttention(c, ProbRounding::kE4M3)), 3e-3);
  }
}

// A captured launch follows the lengths on the device.
TEST(AttnDecodeI4, ReplaysWithNewLengths) {
  FIREQ_NEEDS_HOPPER();
  const AttentionCase c =
      MakeAttentionCase({{1, 1, 1}, {1000, 200, 513}, 32, {kAsym, 8, 128}}, std::random_device{}());
  AttentionOnDevice device(c);
  const Runner runner(c);
  const AttnDecodeArgs args = runner.Args(c, device);
  const Graph graph([&](cudaStream_t stream) { LaunchAttnDecodeI4(runner.plan(), args, stream); });
  const Stream stream;
  for (const std::vector<int32_t>& lengths :
       {std::vector<int32_t>{1000, 200, 513}, {3, 64, 500}, {999, 1, 0}}) {
    AttentionCase now = c;
    now.context_len = lengths;
    device.context_len.CopyFrom(lengths.data(), 3);
    device.out.FillBytes(0xFF);
    graph.Launch(stream.get());
    stream.Synchronize();
    EXPECT_LE(RelativeError(device.Output(), ReferenceAttention(now, ProbRounding::kE4M3)), 3e-3);
  }
}

// The same where lists are made of the lengths, for several layers.
TEST(AttnDecodeI4, ReplaysWithNewLengthsOfManySegments) {
  FIREQ_NEEDS_HOPPER();
  std::mt19937 rng(std::random_device{}());
  std::vector<int32_t> queries(150, 1), contexts(150);
  for (int32_t& context : contexts) context = 1 + static_cast<int32_t>(rng() % 900);
  const AttentionCase c = MakeAttentionCase({queries, contexts, 8, {kAsym, 2, 128}}, rng());
  AttentionOnDevice device(c);
  const Runner runner(c);
  ASSERT_TRUE(runner.plan().finishes);
  const AttnDecodeArgs args = runner.Args(c, device);
  const Graph graph([&](cudaStream_t stream) { runner.Queue(args, 3, stream); });
  const Stream stream;
  for (int replay = 0; replay < 4; ++replay) {
    AttentionCase now = c;
    for (size_t s = 0; s < contexts.size() && replay > 0; ++s)
      now.context_len[s] = static_cast<int32_t>(rng() % static_cast<uint32_t>(contexts[s] + 1));
    device.context_len.CopyFrom(now.context_len.data(), std::ssize(now.context_len));
    device.out.FillBytes(0xFF);
    graph.Launch(stream.get());
    stream.Synchronize();
    EXPECT_LE(RelativeError(device.Output(), ReferenceAttention(now, ProbRounding::kE4M3)), 3e-3);
  }
}

// Page numbers whose byte offsets do not fit 32 bits.
TEST(AttnDecodeI4, CachesBeyondFourGigabytes) {
  FIREQ_NEEDS_HOPPER();
  const AttentionCase c =
      MakeAttentionCase({{1, 1}, {700, 90}, 32, {kAsym, 8, 128}}, std::random_device{}());
  AttentionCase far = c;
  const int64_t page_bytes = c.layout.page_bytes();
  const int32_t shift = static_cast<int32_t>((int64_t{9} << 29) / page_bytes);
  for (int32_t& page : far.page_table) page += page >= 0 ? shift : 0;
  AttentionOnDevice device(far);
  device.pages = DeviceBuffer<uint8_t>(shift * page_bytes + static_cast<int64_t>(c.pages.size()));
  device.pages.FillBytes(0xFF);
  FIREQ_CUDA(cudaMemcpy(device.pages.data() + shift * page_bytes, c.pages.data(), c.pages.size(),
                        cudaMemcpyHostToDevice));
  const Runner runner(far);
  runner.Launch(runner.Args(far, device));
  EXPECT_LE(RelativeError(device.Output(), ReferenceAttention(c, ProbRounding::kE4M3)), 3e-3);
}

}  // namespace
}  // namespace fireq::sm90
