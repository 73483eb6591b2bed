// Decode attention that makes its queries and writes the step's tokens, against rope_kv_write and
// the kernel behind it: the same bits of the output and of every byte of the pages.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "tests/backends/sm90/attn_decode_i4/decode_on_device.h"

namespace fireq::sm90 {
namespace {

using testing::AttentionCase;
using testing::AttentionOnDevice;
using testing::DecodeArgs;
using testing::MakeAttentionCase;

struct Case {
  const char* name;
  std::vector<int32_t> context_len;
  int heads, kv_heads, head_dim;
  KvGrid grid;
  bool crs;
  std::vector<int32_t> query_len = {};  // one each, if empty
};

// What comes in front of attention in the step of `c`, of random numbers.
class Rope {
 public:
  Rope(const AttentionCase& c, bool crs) : crs_(crs) {
    std::mt19937 rng(std::random_device{}());
    std::normal_distribution<float> normal;
    const int dim = c.layout.head_dim;
    qkv_.resize(static_cast<size_t>(c.num_tokens()) *
                static_cast<size_t>((c.num_heads + 2 * c.layout.kv_heads) * dim));
    for (bf16_t& x : qkv_) x = FloatToBf16(normal(rng) + 0.3f);
    std::vector<float> cosines, sines, crs_q, crs_k, shift;
    for (int32_t p = 0; p < c.max_pages * kTokensPerPage; ++p) {
      for (int f = 0; f < dim / 2; ++f) {
        const double angle = p * std::pow(10000.0, -2.0 * f / dim);
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    for (int i = 0; i < dim * c.layout.kv_heads; ++i) {
      crs_q.push_back(std::exp2(normal(rng)));
      crs_k.push_back(1.0f / crs_q.back());
      shift.push_back(normal(rng));
    }
    on_device_ = DeviceBuffer<bf16_t>(qkv_);
    cosines_ = DeviceBuffer<float>(cosines);
    sines_ = DeviceBuffer<float>(sines);
    crs_q_ = DeviceBuffer<float>(crs_q);
    crs_k_ = DeviceBuffer<float>(crs_k);
    shift_ = DeviceBuffer<float>(shift);
  }

  RopeKvWriteParams Params(const AttentionCase& c, const AttentionOnDevice& d) const {
    RopeKvWriteParams p;
    p.qkv = on_device_.data();
    p.query_start = d.query_start.data();
    p.context_len = d.context_len.data();
    p.page_table = d.page_table.data();
    p.rope_cos = cosines_.data();
    p.rope_sin = sines_.data();
    p.crs_q = crs_ ? crs_q_.data() : nullptr;
    p.crs_k = crs_ ? crs_k_.data() : nullptr;
    p.key_shift = crs_ ? shift_.data() : nullptr;
    p.grid = c.layout.grid;
    p.q = d.q.data();
    p.scale_q = d.q_scale.data();
    p.pages = d.pages.data();
    p.num_sequences = c.num_sequences();
    p.max_query_len = 1;
    p.num_heads = c.num_heads;
    p.kv_heads = c.layout.kv_heads;
    p.max_pages = c.max_pages;
    return p;
  }

  // The random numbers, all of them or but for the one at `place`.
  void Cure() { on_device_ = DeviceBuffer<bf16_t>(qkv_); }
  void Poison(size_t place, float value) {
    std::vector<bf16_t> poisoned = qkv_;
    poisoned[place] = FloatToBf16(value);
    on_device_ = DeviceBuffer<bf16_t>(poisoned);
  }

 private:
  bool crs_;
  std::vector<bf16_t> qkv_;
  DeviceBuffer<bf16_t> on_device_;
  DeviceBuffer<float> cosines_, sines_, crs_q_, crs_k_, shift_;
};

// Both kernels, or, with `fused`, one. `launches` times: a step that is done again does the same.
void Run(const AttentionCase& c, const AttentionOnDevice& d, const Rope& rope, bool fused,
         bool e4m3_probs, int launches) {
  const AttnDecodePlan plan = MakeAttnDecodePlan({.num_sequences = c.num_sequences(),
                                                  .num_heads = c.num_heads,
                                                  .kv_heads = c.layout.kv_heads,
                                                  .head_dim = c.layout.head_dim,
                                                  .num_sms = NumSms(),
                                                  .max_pages = c.max_pages,
                                                  .writes_tokens = fused});
  DeviceBuffer<float> workspace(plan.workspace_bytes / 4);
  workspace.FillBytes(0);
  RopeKvWriteParams params = rope.Params(c, d);
  params.programmatic = launches > 1;
  AttnDecodeArgs args = DecodeArgs(c, d, workspace);
  args.e4m3_probs = e4m3_probs;
  args.programmatic = launches > 1;
  if (fused) args.rope = &params;
  const Stream stream;
  for (int i = 0; i < launches; ++i) {
    if (!fused) LaunchRopeKvWrite(params, c.layout.head_dim, stream.get());
    LaunchAttnDecodeI4(plan, args, stream.get());
  }
  stream.Synchronize();
}

void ExpectTheSameBits(const Case& t) {
  std::vector<int32_t> query_len = t.query_len;
  if (query_len.empty()) query_len.assign(t.context_len.size(), 1);
  AttentionCase c =
      MakeAttentionCase({query_len, t.context_len, t.heads, {t.grid, t.kv_heads, t.head_dim}},
                        std::random_device{}());
  const Rope rope(c, t.crs);
  for (const bool e4m3_probs : {true, false}) {
    AttentionOnDevice apart(c);
    Run(c, apart, rope, false, e4m3_probs, 1);
    for (const int launches : {1, 3}) {
      AttentionOnDevice fused(c);
      fused.q.FillBytes(0x7F);  // NaN: whoever read it would show it
      Run(c, fused, rope, true, e4m3_probs, launches);
      const std::vector<uint8_t> expected = apart.pages.ToHost(), pages = fused.pages.ToHost();
      for (size_t i = 0; i < pages.size(); ++i) {
        ASSERT_EQ(pages[i], expected[i])
            << t.name << ", byte " << static_cast<int64_t>(i) % c.layout.head_bytes()
            << " of a head's block";
      }
      const std::vector<bf16_t> a = apart.out.ToHost(), b = fused.out.ToHost();
      EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16_t)))
          << t.name << ", launches " << launches << ", E4M3 " << e4m3_probs;
      for (const uint8_t code : fused.q.ToHost()) ASSERT_EQ(code, 0x7F);
    }
  }
}

class AttnDecodeWritesTokensCases : public ::testing::TestWithParam<Case> {};

TEST_P(AttnDecodeWritesTokensCases, SameBitsAsTwoKernels) {
  FIREQ_NEEDS_HOPPER();
  ExpectTheSameBits(GetParam());
}

constexpr KvGrid kAsym = KvGrid::kAsymmetric;
INSTANTIATE_TEST_SUITE_P(
    , AttnDecodeWritesTokensCases,
    ::testing::Values(
        Case{"one token", {1}, 4, 1, 128, kAsym, false},
        Case{"one page", {64}, 32, 8, 128, kAsym, false},
        Case{"edges", {1, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129, 1000}, 32, 8, 128, kAsym, true},
        Case{"edges, 64", {1, 8, 9, 17, 63, 64, 65, 129, 500}, 16, 4, 64, kAsym, true},
        Case{"none", {5, 70, 64, 300}, 32, 8, 128, kAsym, false, {1, 0, 1, 1}},
        Case{"clusters", {1025}, 32, 8, 128, kAsym, true},
        Case{"clusters, two", {1024}, 32, 8, 128, kAsym, true},
        Case{"long", {40000}, 8, 2, 128, kAsym, false},
        Case{"uneven", {20000, 3, 65, 129}, 8, 2, 128, kAsym, false},
        Case{"group of 7", {300, 1000, 64}, 28, 4, 128, kAsym, false},
        Case{"group of 8", {300, 1000, 64, 65, 1}, 16, 2, 128, kAsym, true},
        Case{"mha", {77, 500, 900}, 8, 8, 128, kAsym, true},
        Case{"mqa", {77, 640}, 8, 1, 64, kAsym, false},
        Case{"symmetric", {100, 3000}, 32, 8, 128, KvGrid::kSymmetric, false},
        Case{"signed", {100, 3000}, 32, 8, 64, KvGrid::kSigned, true}),
    [](const auto& which) { return "Case" + std::to_string(which.index); });

// Sequences so unlike that the line of pages is cut: a warp writes the tokens of several segments.
TEST(AttnDecodeWritesTokens, RaggedSequences) {
  FIREQ_NEEDS_HOPPER();
  std::mt19937 rng(std::random_device{}());
  for (const int head_dim : {64, 128}) {
    for (const int kv_heads : {2, 8}) {
      std::vector<int32_t> contexts(static_cast<size_t>(2 * NumSms() / kv_heads));
      for (int32_t& context : contexts)
        context = rng() % 8 == 0 ? 700 + rng() % 500 : 1 + rng() % 130;
      ExpectTheSameBits({"ragged", contexts, 8, kv_heads, head_dim, kAsym, true});
    }
  }
}

// As the engine's steps: all as long.
TEST(AttnDecodeWritesTokens, ManyAlike) {
  FIREQ_NEEDS_HOPPER();
  for (const int32_t context : {1, 64, 65, 700})
    for (const auto& [sequences, heads, kv_heads] : {std::array{33, 32, 8}, {64, 16, 2}})
      ExpectTheSameBits({"alike", std::vector<int32_t>(static_cast<size_t>(sequences), context),
                         heads, kv_heads, 128, kAsym, false});
}

// What `from` has of a token's K or V in a head's block, into `to`.
void CopyVector(const KvPageLayout& layout, bool value, int token, const uint8_t* from,
                uint8_t* to) {
  for (int d = 0; d < layout.head_dim; ++d) {
    const NibblePlace at = value ? layout.VCode(token, d) : layout.KCode(token, d);
    SetCode(to, at, GetCode(from, at));
  }
  const int64_t scales = value ? layout.v_scale_offset() : layout.k_scale_offset();
  const int64_t zeros = value ? layout.v_zero_offset() : layout.k_zero_offset();
  SetKvScale(to, scales, zeros, token, GetKvScale(from, scales, zeros, token));
}

// A number of one token that is none, in one of its vectors of Q, K or V: the outputs that see the
// vector are none either. All other outputs, of the token and of other sequences, and all bytes of
// the pages but the vector's own keep their bits.
void ExpectPoisonStays(const Case& t, int sequence) {
  const KvPageLayout layout{t.grid, t.kv_heads, t.head_dim};
  AttentionCase c = MakeAttentionCase(
      {std::vector<int32_t>(t.context_len.size(), 1), t.context_len, t.heads, layout},
      std::random_device{}());
  Rope rope(c, t.crs);
  const int group = t.heads / t.kv_heads, kv_head = t.kv_heads - 1;
  const int head = kv_head * group + group / 2;
  const int position = t.context_len[static_cast<size_t>(sequence)] - 1;
  const int page =
      c.page_table[static_cast<size_t>(sequence * c.max_pages + position / kTokensPerPage)];
  const int64_t block = page * layout.page_bytes() + layout.head_offset(kv_head);
  for (const bool e4m3_probs : {true, false}) {
    rope.Cure();
    AttentionOnDevice clean(c);
    Run(c, clean, rope, true, e4m3_probs, 1);
    const std::vector<uint8_t> clean_pages = clean.pages.ToHost();
    const std::vector<bf16_t> clean_out = clean.out.ToHost();
    for (const int vector : {head, t.heads + kv_head, t.heads + t.kv_heads + kv_head}) {
      const bool query = vector == head, is_value = vector >= t.heads + t.kv_heads;
      for (const float none : {NAN, INFINITY, -INFINITY}) {
        SCOPED_TRACE(::testing::Message() << t.name << ", vector " << vector << ", " << none);
        const size_t vectors = static_cast<size_t>(t.heads + 2 * t.kv_heads);
        rope.Poison((static_cast<size_t>(sequence) * vectors + static_cast<size_t>(vector)) *
                            static_cast<size_t>(t.head_dim) +
                        5,
                    none);
        AttentionOnDevice poisoned(c), apart(c);
        Run(c, poisoned, rope, true, e4m3_probs, 3);
        Run(c, apart, rope, false, e4m3_probs, 1);
        std::vector<uint8_t> pages = poisoned.pages.ToHost();
        std::vector<bf16_t> out = poisoned.out.ToHost();
        EXPECT_TRUE(pages == apart.pages.ToHost()) << "not the pages of two kernels";
        EXPECT_TRUE(out == apart.out.ToHost()) << "not the outputs of two kernels";
        int finite = 0;
        for (int h = 0; h < t.heads; ++h) {
          if (query ? h != head : h / group != kv_head) continue;
          const size_t first =
              static_cast<size_t>(sequence * t.heads + h) * static_cast<size_t>(t.head_dim);
          for (size_t i = first; i < first + static_cast<size_t>(t.head_dim); ++i) {
            finite += std::isfinite(Bf16ToFloat(out[i]));
            out[i] = clean_out[i];
          }
        }
        EXPECT_EQ(finite, 0);
        EXPECT_TRUE(out == clean_out) << "another output";
        if (!query) {
          EXPECT_FALSE(pages == clean_pages);
          CopyVector(layout, is_value, position % kTokensPerPage, clean_pages.data() + block,
                     pages.data() + block);
        }
        EXPECT_TRUE(pages == clean_pages) << "another token's bytes";
      }
    }
  }
}

TEST(AttnDecodeWritesTokens, ANumberThatIsNoneStaysWithItsToken) {
  FIREQ_NEEDS_HOPPER();
  ExpectPoisonStays({"one page", {64}, 32, 8, 128, kAsym, false}, 0);
  ExpectPoisonStays({"clusters", {1025}, 32, 8, 128, kAsym, true}, 0);
  ExpectPoisonStays({"edges", {1, 8, 17, 63, 64, 65, 129, 1000}, 32, 8, 128, kAsym, true}, 6);
  ExpectPoisonStays({"edges, 64", {1, 8, 17, 63, 64, 65, 129, 500}, 16, 4, 64, kAsym, false}, 3);
  ExpectPoisonStays({"long", {9, 40000, 70}, 8, 2, 128, kAsym, false}, 1);
  // The line of pages is cut: several segments a CTA, in front of and behind the poisoned one.
  std::vector<int32_t> contexts(static_cast<size_t>(2 * NumSms() / 8));
  for (size_t i = 0; i < contexts.size(); ++i)
    contexts[i] = static_cast<int32_t>(i % 8 == 0 ? 700 + 13 * i : 1 + 37 * i % 130);
  ExpectPoisonStays({"ragged", contexts, 8, 8, 128, kAsym, true}, 16);
  ExpectPoisonStays({"ragged", contexts, 32, 8, 128, kAsym, true}, 17);
}

}  // namespace
}  // namespace fireq::sm90
