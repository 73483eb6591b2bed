// Blocks of one token in one launch against the same linears and attention as launches of their
// own: the same bits up to the first attention, whose sums have another order, and near them
// behind it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "tests/backends/sm90/attn_decode_i4/decode_on_device.h"
#include "tests/backends/sm90/gemm_i4f8/weight_on_device.h"

namespace fireq::sm90 {
namespace {

using testing::AttentionCase;
using testing::AttentionOnDevice;
using testing::DecodeArgs;
using testing::MakeAttentionCase;

struct Sizes {
  int64_t hidden, ffn;
  int heads, kv_heads;
  int64_t qkv() const { return int64_t{heads + 2 * kv_heads} * 128; }
};

struct Weight : testing::WeightOnDevice {
  Weight(int64_t n, int64_t k, std::mt19937& rng) : WeightOnDevice(n, k, 32.0f, rng) {}
};

struct Layer {
  Weight qkv, o, gate_up, down;
  Layer(const Sizes& s, std::mt19937& rng)
      : qkv(s.qkv(), s.hidden, rng),
        o(s.hidden, int64_t{s.heads} * 128, rng),
        gate_up(2 * s.ffn, s.hidden, rng),
        down(s.hidden, s.ffn, rng) {}
};

class Model {
 public:
  Model(const Sizes& s, int layers, int32_t context, uint32_t seed)
      : sizes_(s),
        rng_(seed),
        case_(MakeAttentionCase({{1}, {context}, s.heads, {KvGrid::kAsymmetric, s.kv_heads, 128}},
                                seed)),
        qkv_(s.qkv()),
        stream_(s.hidden),
        ffn_(s.ffn),
        norm_(std::vector<float>(static_cast<size_t>(s.hidden), 0.75f)),
        shape_{s.heads, s.kv_heads, 128, case_.max_pages},
        meetings_(std::vector<uint32_t>{0}),
        exchange_(BlockExchangeBytes(device_)) {
    for (int i = 0; i < layers; ++i) layers_.push_back(std::make_unique<Layer>(s, rng_));
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < s.hidden; ++i) first_.push_back(FloatToBf16(normal(rng_)));
    std::vector<float> cosines, sines;
    for (int32_t p = 0; p < case_.max_pages * kTokensPerPage; ++p) {
      for (int f = 0; f < 64; ++f) {
        const double angle = p * std::pow(10000.0, -2.0 * f / 128);
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    cosines_ = DeviceBuffer<float>(cosines);
    sines_ = DeviceBuffer<float>(sines);
    exchange_.FillBytes(0);
  }

  struct Result {
    std::vector<float> stream;
    std::vector<std::vector<float>> attention;
    std::vector<std::vector<uint8_t>> pages;
  };

  bool Fits() const { return SpreadBlockHeads(shape_, device_).has_value(); }

  // `times` steps, one after the other, that each write the same token.
  Result Run(bool blocks, int times) {
    std::vector<std::unique_ptr<AttentionOnDevice>> caches;
    for (size_t i = 0; i < layers_.size(); ++i)
      caches.push_back(std::make_unique<AttentionOnDevice>(case_));
    const AttnDecodePlan plan = MakeAttnDecodePlan({.num_sequences = 1,
                                                    .num_heads = sizes_.heads,
                                                    .kv_heads = sizes_.kv_heads,
                                                    .head_dim = 128,
                                                    .num_sms = device_.num_sms,
                                                    .max_pages = case_.max_pages,
                                                    .writes_tokens = true});
    DeviceBuffer<float> workspace(plan.workspace_bytes / 4);
    workspace.FillBytes(0);
    const Stream stream;
    for (int time = 0; time < times; ++time) {
      FIREQ_CUDA(cudaMemcpyAsync(stream_.data(), first_.data(), first_.size() * 2,
                                 cudaMemcpyHostToDevice, stream.get()));
      if (blocks) {
        RunBlocks(caches, stream);
      } else {
        RunApart(caches, plan, workspace, stream);
      }
    }
    stream.Synchronize();
    Result result;
    for (const bf16_t x : stream_.ToHost()) result.stream.push_back(Bf16ToFloat(x));
    for (const auto& cache : caches) {
      result.attention.push_back(cache->Output());
      result.pages.push_back(cache->pages.ToHost());
    }
    return result;
  }

 private:
  GemmI4F8Args Linear(const Weight& w, const bf16_t* x, bool norm, GemmEpilogue epilogue,
                      bf16_t* y) const {
    GemmI4F8Args a;
    a.layout = w.layout;
    a.tiles = w.tiles.data();
    a.row_scales = w.row_scales.data();
    a.m = 1;
    a.bf16_x = reinterpret_cast<const uint16_t*>(x);
    if (norm) a.norm = norm_.data();
    a.norm_eps = 1e-5f;
    a.epilogue = epilogue;
    a.residual = stream_.data();
    a.y = y;
    return a;
  }
  std::vector<GemmI4F8Args> Linears(size_t layer, const AttentionOnDevice& cache) const {
    const Layer& l = *layers_[layer];
    return {Linear(l.qkv, stream_.data(), true, GemmEpilogue::kPlain, qkv_.data()),
            Linear(l.o, cache.out.data(), false, GemmEpilogue::kResidual, stream_.data()),
            Linear(l.gate_up, stream_.data(), true, GemmEpilogue::kSiluMul, ffn_.data()),
            Linear(l.down, ffn_.data(), false, GemmEpilogue::kResidual, stream_.data())};
  }
  RopeKvWriteParams Rope(const AttentionOnDevice& d) const {
    RopeKvWriteParams p;
    p.qkv = qkv_.data();
    p.query_start = d.query_start.data();
    p.context_len = d.context_len.data();
    p.page_table = d.page_table.data();
    p.rope_cos = cosines_.data();
    p.rope_sin = sines_.data();
    p.pages = d.pages.data();
    p.num_sequences = 1;
    p.max_query_len = 1;
    p.num_heads = sizes_.heads;
    p.kv_heads = sizes_.kv_heads;
    p.max_pages = case_.max_pages;
    return p;
  }

  void RunApart(const std::vector<std::unique_ptr<AttentionOnDevice>>& caches,
                const AttnDecodePlan& plan, const DeviceBuffer<float>& workspace,
                const Stream& stream) const {
    for (size_t i = 0; i < layers_.size(); ++i) {
      const std::vector<GemmI4F8Args> linears = Linears(i, *caches[i]);
      const RopeKvWriteParams rope = Rope(*caches[i]);
      AttnDecodeArgs args = DecodeArgs(case_, *caches[i], workspace);
      args.rope = &rope;
      for (size_t g = 0; g < linears.size(); ++g) {
        const GemmI4F8Args& a = linears[g];
        LaunchGemmI4F8(MakeChainGemmPlan({1, a.layout.n, a.layout.k}, device_), a, stream.get());
        if (g == 0) LaunchAttnDecodeI4(plan, args, stream.get());
      }
    }
  }
  void RunBlocks(const std::vector<std::unique_ptr<AttentionOnDevice>>& caches,
                 const Stream& stream) const {
    std::vector<BlockLink> links;
    int attentions = 0;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const std::vector<GemmI4F8Args> linears = Linears(i, *caches[i]);
      links.push_back({.place = 4, .gemm = linears[0]});
      if (++attentions == kMaxBlocks) {
        LaunchBlockChain(links, device_, true, meetings_.data(), exchange_.data(), stream.get());
        links.clear();
        attentions = 1;
      }
      links.push_back({.place = 0, .rope = Rope(*caches[i]), .out = caches[i]->out.data()});
      for (int g = 1; g < 4; ++g)
        links.push_back({.place = g, .gemm = linears[static_cast<size_t>(g)]});
    }
    LaunchBlockChain(links, device_, false, meetings_.data(), exchange_.data(), stream.get());
  }

  Sizes sizes_;
  std::mt19937 rng_;
  AttentionCase case_;
  GemmDevice device_ = QueryGemmDevice();
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<bf16_t> first_;
  DeviceBuffer<bf16_t> qkv_, stream_, ffn_;
  DeviceBuffer<float> norm_, cosines_, sines_;
  BlockShape shape_;
  DeviceBuffer<uint32_t> meetings_;
  DeviceBuffer<uint8_t> exchange_;
};

double RelativeDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0, size = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = double{a[i]} - double{b[i]};
    difference += d * d;
    size += double{b[i]} * double{b[i]};
  }
  return std::sqrt(difference / size);
}

void Expect(const Sizes& sizes, int layers, int32_t context) {
  Model model(sizes, layers, context, 11 + static_cast<uint32_t>(context));
  ASSERT_TRUE(model.Fits()) << context;
  const Model::Result apart = model.Run(false, 1), blocks = model.Run(true, 1);
  std::printf("context %d, %d layers, %d/%d heads: attention %.2e", context, layers, sizes.heads,
              sizes.kv_heads, RelativeDifference(blocks.attention[0], apart.attention[0]));
  EXPECT_LE(RelativeDifference(blocks.attention[0], apart.attention[0]), 4e-3) << context;
  EXPECT_EQ(blocks.pages[0], apart.pages[0]) << context;
  for (size_t i = 1; i < blocks.attention.size(); ++i) {
    const double difference = RelativeDifference(blocks.attention[i], apart.attention[i]);
    std::printf(" %.2e", difference);
    EXPECT_LE(difference, 0.1) << context << ", layer " << i;
  }
  std::printf(" stream %.2e\n", RelativeDifference(blocks.stream, apart.stream));
  EXPECT_LE(RelativeDifference(blocks.stream, apart.stream), 0.1) << context;
  for (const int times : {1, 20}) {
    const Model::Result again = model.Run(true, times);
    EXPECT_EQ(again.stream, blocks.stream) << context << ", " << times << " times";
    EXPECT_EQ(again.attention, blocks.attention) << context << ", " << times << " times";
    EXPECT_EQ(again.pages, blocks.pages) << context << ", " << times << " times";
  }
}

TEST(GemmI4F8Blocks, NearOneLaunchAfterAnother) {
  FIREQ_NEEDS_HOPPER();
  const Sizes sizes{1024, 1536, 32, 8};
  for (const int32_t context : {1, 2, 64, 65, 128, 700, 1024, 1025, 1100, 1984})
    Expect(sizes, 2, context);
}

TEST(GemmI4F8Blocks, SeveralLaunches) {
  FIREQ_NEEDS_HOPPER();
  Expect({1024, 1536, 32, 8}, 2 * kMaxBlocks + 3, 1030);
}

TEST(GemmI4F8Blocks, OtherHeads) {
  FIREQ_NEEDS_HOPPER();
  Expect({1152, 2688, 28, 4}, 2, 600);
  Expect({640, 1536, 16, 8}, 3, 1500);
}

TEST(GemmI4F8Blocks, OfAModelsSize) {
  FIREQ_NEEDS_HOPPER();
  Expect({4096, 14336, 32, 8}, 4, 1025);
}

}  // namespace
}  // namespace fireq::sm90
