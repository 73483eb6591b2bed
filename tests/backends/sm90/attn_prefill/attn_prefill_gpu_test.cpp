// Prefill attention on the device against the double-precision reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
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

enum class Unpack { kByEachCta, kOnce };
constexpr Unpack kBoth[] = {Unpack::kByEachCta, Unpack::kOnce};

PrefillUnpackPolicy PolicyOf(Unpack unpack) {
  if (unpack == Unpack::kByEachCta) return {.workspace_limit = 0};
  return {.min_visits = 0.0, .workspace_limit = int64_t{1} << 40};
}

// A plan and what a launch of it takes, with a poisoned workspace.
class PlanOnDevice {
 public:
  PlanOnDevice(const AttentionCase& c, Unpack unpack)
      : plan_(MakeAttnPrefillPlan(QueryLengths(c), c.context_len, c.num_heads, c.layout.kv_heads,
                                  c.layout.head_dim, NumSms(), PolicyOf(unpack))),
        items_(plan_.items),
        pieces_(plan_.pieces),
        tiles_(plan_.tiles),
        workspace_(plan_.workspace_bytes),
        zeros_(static_cast<size_t>(plan_.progress_bytes) / sizeof(uint32_t)),
        progress_(zeros_) {
    EXPECT_EQ(plan_.tiles.empty(), unpack == Unpack::kByEachCta);
    workspace_.FillBytes(0xFF);
  }

  // Of a case of the same lengths and heads.
  void Launch(const AttentionCase& c, AttentionOnDevice& device, AttnPrefillArgs args,
              cudaStream_t stream) const {
    args.tensors = {.q = device.q.data(),
                    .scale_q = device.q_scale.data(),
                    .pages = device.pages.data(),
                    .page_table = device.page_table.data(),
                    .items = items_.data(),
                    .pieces = pieces_.data(),
                    .tiles = tiles_.data(),
                    .workspace = workspace_.data(),
                    .progress = progress_.data(),
                    .out = device.out.data(),
                    .num_heads = c.num_heads,
                    .kv_heads = c.layout.kv_heads,
                    .exact_limit = args.tensors.exact_limit,
                    .max_pages = c.max_pages};
    LaunchAttnPrefill(plan_, args, stream);
  }

  void ExpectProgressIsZero() const { EXPECT_EQ(progress_.ToHost(), zeros_); }

 private:
  static std::vector<int32_t> QueryLengths(const AttentionCase& c) {
    std::vector<int32_t> queries;
    for (int s = 0; s < c.num_sequences(); ++s)
      queries.push_back(c.query_start[s + 1] - c.query_start[s]);
    return queries;
  }

  AttnPrefillPlan plan_;
  DeviceBuffer<AttnPrefillItem> items_;
  DeviceBuffer<int32_t> pieces_;
  DeviceBuffer<AttnPrefillTile> tiles_;
  DeviceBuffer<uint8_t> workspace_;
  std::vector<uint32_t> zeros_;
  DeviceBuffer<uint32_t> progress_;
};

// The step's attention with poisoned outputs.
std::vector<float> RunPrefill(const AttentionCase& c, AttentionOnDevice& device, Unpack unpack,
                              bool e4m3_probs = true,
                              int32_t exact_limit = AttnPrefillParams{}.exact_limit) {
  const PlanOnDevice plan(c, unpack);
  device.out.FillBytes(0xFF);
  const Stream stream;
  plan.Launch(c, device, {.tensors = {.exact_limit = exact_limit}, .e4m3_probs = e4m3_probs},
              stream.get());
  stream.Synchronize();
  plan.ExpectProgressIsZero();
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
  const std::vector<float> expected = RunPrefill(whole, device, Unpack::kByEachCta, true, 0);
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
    return RunPrefill(c, device, Unpack::kOnce, e4m3_probs);
  });
}

TEST_P(AttnPrefillCases, BothWaysToUnpackGiveTheSameBits) {
  FIREQ_NEEDS_HOPPER();
  const AttentionCase c = GetParam().Make();
  AttentionOnDevice device(c);
  const int32_t usual_limit = AttnPrefillParams{}.exact_limit;
  for (const bool e4m3_probs : {true, false}) {
    for (const int32_t exact_limit : {usual_limit, 0}) {
      const std::vector<float> by_each =
          RunPrefill(c, device, Unpack::kByEachCta, e4m3_probs, exact_limit);
      const std::vector<float> once = RunPrefill(c, device, Unpack::kOnce, e4m3_probs, exact_limit);
      EXPECT_EQ(0, std::memcmp(by_each.data(), once.data(), once.size() * sizeof(float)));
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

// Launches behind each other find each other's numbers and workspace, whose tiles are other data's,
// and CTAs take other pieces each time.
void ExpectLaunchesShareAWorkspace(Unpack unpack) {
  const std::vector<int32_t> lengths = Times(6, 700);
  std::vector<AttentionCase> cases;
  std::vector<std::unique_ptr<AttentionOnDevice>> devices;
  std::vector<std::vector<float>> expected;
  for (int i = 0; i < 3; ++i) {
    cases.push_back(
        MakeAttentionCase({lengths, lengths, 16, {kAsym, 4, 128}}, std::random_device{}()));
    devices.push_back(std::make_unique<AttentionOnDevice>(cases.back()));
    expected.push_back(RunPrefill(cases.back(), *devices.back(), unpack));
    devices.back()->out.FillBytes(0xFF);
  }
  const PlanOnDevice plan(cases[0], unpack);
  const Stream stream;
  for (size_t launch = 0; launch < 30; ++launch) {
    plan.Launch(cases[launch % 3], *devices[launch % 3], {.programmatic = true}, stream.get());
  }
  stream.Synchronize();
  plan.ExpectProgressIsZero();
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(devices[i]->Output(), expected[i]);
}
TEST(AttnPrefill, LaunchesShareAWorkspace) {
  FIREQ_NEEDS_HOPPER();
  ExpectLaunchesShareAWorkspace(Unpack::kOnce);
}
TEST(AttnPrefill, LaunchesShareWhatIsKnownOfPieces) {
  FIREQ_NEEDS_HOPPER();
  ExpectLaunchesShareAWorkspace(Unpack::kByEachCta);
}

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
