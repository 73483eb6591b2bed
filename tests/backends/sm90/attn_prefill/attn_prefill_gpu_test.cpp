// Prefill attention on the device against the double-precision reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "fireq/backends/sm90/attn_prefill/launch.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "tests/backends/sm90/attention_on_device.h"

namespace fireq::sm90 {
namespace {

using testing::AttentionCase;
using testing::AttentionOnDevice;
using testing::ExpectServedAttention;
using Case = testing::NamedAttentionCase;
using testing::MakeAttentionCase;
using testing::ProbRounding;
using testing::ReferenceAttention;
using testing::RelativeError;

enum class Unpack { kInKernel, kInFront };
constexpr Unpack kBoth[] = {Unpack::kInKernel, Unpack::kInFront};

PrefillUnpackPolicy PolicyOf(Unpack unpack) {
  if (unpack == Unpack::kInKernel) return {.workspace_limit = 0};
  return {.min_visits = 0.0, .workspace_limit = int64_t{1} << 40};
}

// The step's attention with poisoned outputs, and tiles in a poisoned workspace.
std::vector<float> RunPrefill(const AttentionCase& c, AttentionOnDevice& device, Unpack unpack,
                              bool e4m3_probs = true,
                              int32_t exact_limit = AttnPrefillParams{}.exact_limit) {
  std::vector<int32_t> queries;
  for (int s = 0; s < c.num_sequences(); ++s)
    queries.push_back(c.query_start[s + 1] - c.query_start[s]);
  const AttnPrefillPlan plan =
      MakeAttnPrefillPlan(queries, c.context_len, c.num_heads, c.layout.kv_heads, c.layout.head_dim,
                          NumSms(), PolicyOf(unpack));
  EXPECT_EQ(plan.tiles.empty(), unpack == Unpack::kInKernel);
  const DeviceBuffer<AttnPrefillItem> items(plan.items);
  const DeviceBuffer<int32_t> pieces(plan.pieces);
  const DeviceBuffer<AttnPrefillTile> tiles(plan.tiles);
  DeviceBuffer<uint8_t> workspace(plan.workspace_bytes);
  workspace.FillBytes(0xFF);
  AttnPrefillArgs args;
  args.e4m3_probs = e4m3_probs;
  args.tensors = {.q = device.q.data(),
                  .scale_q = device.q_scale.data(),
                  .pages = device.pages.data(),
                  .page_table = device.page_table.data(),
                  .items = items.data(),
                  .pieces = pieces.data(),
                  .tiles = tiles.data(),
                  .workspace = workspace.data(),
                  .out = device.out.data(),
                  .num_heads = c.num_heads,
                  .kv_heads = c.layout.kv_heads,
                  .exact_limit = exact_limit,
                  .max_pages = c.max_pages};
  device.out.FillBytes(0xFF);
  const Stream stream;
  LaunchAttnPrefill(plan, args, stream.get());
  stream.Synchronize();
  return device.Output();
}

std::vector<int32_t> Times(size_t count, int32_t length) {
  return std::vector<int32_t>(count, length);
}

// What batch-invariant mode asks for: a token's bits, wherever the chunk that it lies in begins.
TEST(AttnPrefill, ChunksGiveTheSameBitsWithoutExactSums) {
  FIREQ_NEEDS_HOPPER();
  const int tokens = 200;
  const AttentionCase whole =
      MakeAttentionCase({{tokens}, {tokens}, 32, {KvGrid::kAsymmetric, 8, 128}}, 1);
  AttentionOnDevice device(whole);
  const std::vector<float> expected = RunPrefill(whole, device, Unpack::kInKernel, true, 0);
  for (const int begin : {1, 7, 16, 31, 33, 100, 199}) {
    AttentionCase chunk = whole;
    chunk.query_start = {0, tokens - begin};
    chunk.q.erase(chunk.q.begin(), chunk.q.begin() + begin * 32 * 128);
    chunk.q_scale.erase(chunk.q_scale.begin(), chunk.q_scale.begin() + begin * 32);
    AttentionOnDevice chunk_device(chunk);
    for (const Unpack unpack : kBoth) {
      const std::vector<float> out = RunPrefill(chunk, chunk_device, unpack, true, 0);
      EXPECT_EQ(0, std::memcmp(out.data(), expected.data() + begin * 32 * 128,
                               out.size() * sizeof(float)))
          << "begins at " << begin;
    }
  }
}

class AttnPrefillCases : public ::testing::TestWithParam<Case> {};

TEST_P(AttnPrefillCases, MatchesTheReference) {
  FIREQ_NEEDS_HOPPER();
  const AttentionCase c = GetParam().Make();
  AttentionOnDevice device(c);
  ExpectServedAttention(GetParam().name, c, [&](bool e4m3_probs) {
    return RunPrefill(c, device, Unpack::kInFront, e4m3_probs);
  });
}

TEST_P(AttnPrefillCases, BothWaysToUnpackGiveTheSameBits) {
  FIREQ_NEEDS_HOPPER();
  const AttentionCase c = GetParam().Make();
  AttentionOnDevice device(c);
  const int32_t usual_limit = AttnPrefillParams{}.exact_limit;
  for (const bool e4m3_probs : {true, false}) {
    for (const int32_t exact_limit : {usual_limit, 0}) {
      const std::vector<float> in_kernel =
          RunPrefill(c, device, Unpack::kInKernel, e4m3_probs, exact_limit);
      const std::vector<float> in_front =
          RunPrefill(c, device, Unpack::kInFront, e4m3_probs, exact_limit);
      EXPECT_EQ(0, std::memcmp(in_kernel.data(), in_front.data(), in_front.size() * sizeof(float)));
    }
  }
}

// Where one key has most of a row's weight, a rounding of P' that the last bits of a score turn is
// a sixteenth of that row. Cases have enough rows that their error is the kernel's and not the
// draw's: of 1000 keys one still has two thirds of a row in some thousand.
constexpr KvGrid kAsym = KvGrid::kAsymmetric;
INSTANTIATE_TEST_SUITE_P(
    , AttnPrefillCases,
    ::testing::Values(
        Case{"one tile", {32}, {32}, 64, 16, 128, kAsym},
        Case{"one token", Times(16, 1), Times(16, 1), 64, 16, 128, kAsym},
        Case{"edges", {63, 64, 65, 127, 1, 129}, {63, 64, 65, 127, 1, 129}, 32, 8, 128, kAsym},
        Case{"prefixes", {10, 64, 1, 33, 100}, {74, 128, 500, 97, 1000}, 16, 4, 128, kAsym},
        Case{"empty", {0, 5, 0, 3}, {70, 5, 0, 0}, 64, 16, 128, kAsym},
        Case{"mha", {200, 77}, {300, 77}, 12, 12, 128, kAsym},
        Case{"group of 7", {90, 30}, {90, 200}, 56, 8, 128, kAsym},
        Case{"heads of 64", {150, 64, 9}, {150, 700, 64}, 32, 8, 64, kAsym},
        Case{"64, mha", {150}, {700}, 32, 32, 64, kAsym},
        Case{"symmetric", {100}, {1000}, 64, 16, 128, KvGrid::kSymmetric},
        Case{"signed", {100}, {1000}, 64, 16, 128, KvGrid::kSigned},
        Case{"long", {600}, {4000}, 4, 1, 128, kAsym}),
    [](const auto& which) { return "Case" + std::to_string(which.index); });

// More pieces than CTAs, of very different lengths.
TEST(AttnPrefill, ManyRaggedSequences) {
  FIREQ_NEEDS_HOPPER();
  std::mt19937 rng(std::random_device{}());
  std::vector<int32_t> queries, contexts;
  for (int i = 0; i < 60; ++i) {
    queries.push_back(1 + rng() % 200);
    contexts.push_back(queries.back() + (i % 3 == 0 ? rng() % 700 : 0));
  }
  const AttentionCase c = MakeAttentionCase({queries, contexts, 8, {kAsym, 2, 128}}, rng());
  AttentionOnDevice device(c);
  const std::vector<double> reference = ReferenceAttention(c, ProbRounding::kE4M3);
  for (const Unpack unpack : kBoth)
    EXPECT_LE(RelativeError(RunPrefill(c, device, unpack), reference), 3e-3);
}

// Scores that grow to the usual size, or shrink from it, by a factor of eight along the keys: the
// units of P' must follow every tile, or leave the first tile's behind.
TEST(AttnPrefill, UnitsFollowTheScores) {
  FIREQ_NEEDS_HOPPER();
  for (const bool growing : {true, false}) {
    AttentionCase c =
        MakeAttentionCase({{200, 30}, {1000, 777}, 8, {kAsym, 2, 128}}, std::random_device{}());
    for (int s = 0; s < c.num_sequences(); ++s) {
      for (int t = 0; t < c.context_len[s]; ++t) {
        const int step = growing ? t / 256 : 3 - t / 256;
        const int64_t page = c.page_table[s * c.max_pages + t / kTokensPerPage];
        for (int h = 0; h < c.layout.kv_heads; ++h) {
          uint8_t* block = c.pages.data() + page * c.layout.page_bytes() + c.layout.head_offset(h);
          KvScale scale = GetKvScale(block, c.layout.k_scale_offset(), c.layout.k_zero_offset(),
                                     t % kTokensPerPage);
          scale.scale = FloatToBf16(Bf16ToFloat(scale.scale) * std::ldexp(0.125f, step));
          SetKvScale(block, c.layout.k_scale_offset(), c.layout.k_zero_offset(), t % kTokensPerPage,
                     scale);
        }
      }
    }
    AttentionOnDevice device(c);
    const std::vector<double> reference = ReferenceAttention(c, ProbRounding::kE4M3);
    for (const Unpack unpack : kBoth) {
      const double error = RelativeError(RunPrefill(c, device, unpack), reference);
      std::printf("%s scores: served %.2e\n", growing ? "growing" : "shrinking", error);
      EXPECT_LE(error, 3e-3);
    }
  }
}

// Scores of three times the usual deviation: most tiles raise units, and a warpgroup takes the path
// that they need from one piece into the next. Sums of Q K with 13 bits turn more roundings of P'
// here.
TEST(AttnPrefill, WideScoresGiveTheSameBitsAgain) {
  FIREQ_NEEDS_HOPPER();
  AttentionCase c = MakeAttentionCase(
      {{600, 900, 300, 700}, {600, 900, 800, 700}, 16, {kAsym, 4, 128}}, std::random_device{}());
  for (float& scale : c.q_scale) scale *= 3.0f;
  AttentionOnDevice device(c);
  const std::vector<double> reference = ReferenceAttention(c, ProbRounding::kE4M3);
  for (const Unpack unpack : kBoth) {
    const std::vector<float> first = RunPrefill(c, device, unpack);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(RunPrefill(c, device, unpack), first);
    const double error = RelativeError(first, reference);
    std::printf("wide scores: served %.2e\n", error);
    EXPECT_LE(error, 6e-3);
  }
}

}  // namespace
}  // namespace fireq::sm90
