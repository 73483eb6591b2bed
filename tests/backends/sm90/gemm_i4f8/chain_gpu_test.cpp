// A block's linears of one token in one launch against the same, one launch after another.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/base/error.h"
#include "fireq/formats/bf16.h"
#include "tests/backends/sm90/gemm_i4f8/weight_on_device.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq::sm90 {
namespace {

std::vector<uint16_t> RandomTokens(int64_t count, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (auto& v : values) v = FloatToBf16(normal(rng));
  return values;
}

struct Weight : testing::WeightOnDevice {
  Weight(int64_t n, int64_t k, std::mt19937& rng) : WeightOnDevice(n, k, 8.0f, rng) {}
};

struct Sizes {
  int64_t hidden, heads, ffn, qkv;
};

// Of a block: attention's output, the residual stream, and what the linears write.
class Block {
 public:
  Block(const Sizes& sizes, uint32_t seed)
      : rng_(seed),
        o_(sizes.hidden, sizes.heads, rng_),
        gate_up_(2 * sizes.ffn, sizes.hidden, rng_),
        down_(sizes.hidden, sizes.ffn, rng_),
        qkv_(sizes.qkv, sizes.hidden, rng_),
        attention_(RandomTokens(sizes.heads, rng_)),
        norm_(std::vector<float>(static_cast<size_t>(sizes.hidden), 0.75f)),
        residual_(RandomTokens(sizes.hidden, rng_)),
        stream_values_(sizes.hidden),
        ffn_values_(sizes.ffn),
        qkv_values_(sizes.qkv),
        meetings_(std::vector<uint32_t>{0}) {}

  // The residual stream is updated where it is, as the engine does.
  std::vector<GemmI4F8Args> Links(size_t count) const {
    const auto link = [&](const Weight& w, const DeviceBuffer<uint16_t>& x, bool norm,
                          GemmEpilogue epilogue, const DeviceBuffer<uint16_t>& y) {
      GemmI4F8Args a;
      a.layout = w.layout;
      a.tiles = w.tiles.data();
      a.row_scales = w.row_scales.data();
      a.m = 1;
      a.bf16_x = x.data();
      if (norm) a.norm = norm_.data();
      a.norm_eps = 1e-5f;
      a.epilogue = epilogue;
      a.residual = stream_values_.data();
      a.y = y.data();
      return a;
    };
    std::vector<GemmI4F8Args> links = {
        link(o_, attention_, false, GemmEpilogue::kResidual, stream_values_),
        link(gate_up_, stream_values_, true, GemmEpilogue::kSiluMul, ffn_values_),
        link(down_, ffn_values_, false, GemmEpilogue::kResidual, stream_values_),
        link(qkv_, stream_values_, true, GemmEpilogue::kPlain, qkv_values_)};
    links.resize(count);
    return links;
  }

  std::vector<uint16_t> Run(size_t count, bool chained, const GemmDevice& device, int times = 1) {
    FIREQ_CUDA(cudaMemcpy(stream_values_.data(), residual_.data(),
                          static_cast<size_t>(residual_.size_bytes()), cudaMemcpyDeviceToDevice));
    ffn_values_.FillBytes(0xFF);  // NaN
    qkv_values_.FillBytes(0xFF);
    FIREQ_CUDA(cudaDeviceSynchronize());
    const Stream stream;
    const std::vector<GemmI4F8Args> links = Links(count);
    for (int i = 0; i < times; ++i) {
      if (chained) {
        LaunchGemmChain(links, device, meetings_.data(), stream.get());
        continue;
      }
      for (const GemmI4F8Args& a : links)
        LaunchGemmI4F8(MakeChainGemmPlan({1, a.layout.n, a.layout.k}, device), a, stream.get());
    }
    stream.Synchronize();
    std::vector<uint16_t> all = stream_values_.ToHost();
    for (const std::vector<uint16_t>& part : {ffn_values_.ToHost(), qkv_values_.ToHost()})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }

 private:
  std::mt19937 rng_;
  Weight o_, gate_up_, down_, qkv_;
  DeviceBuffer<uint16_t> attention_;
  DeviceBuffer<float> norm_;
  DeviceBuffer<uint16_t> residual_;
  DeviceBuffer<uint16_t> stream_values_, ffn_values_, qkv_values_;
  DeviceBuffer<uint32_t> meetings_;
};

void ExpectTheSameBits(const Sizes& sizes, const GemmDevice& device, int times) {
  Block block(sizes, 7);
  for (size_t count = 1; count <= kMaxGemmChain; ++count) {
    const std::vector<uint16_t> apart = block.Run(count, false, device);
    const bool all = count == kMaxGemmChain;
    for (size_t i = 0; all && i < apart.size(); ++i)
      ASSERT_FALSE(std::isnan(Bf16ToFloat(apart[i]))) << i;
    for (int repeat = 0; repeat < 3; ++repeat)
      ASSERT_EQ(block.Run(count, true, device), apart) << count << " of hidden " << sizes.hidden;
    // Back to back: launches that begin before the one in front has ended.
    ASSERT_EQ(block.Run(count, true, device, times), block.Run(count, false, device, times))
        << count << " of hidden " << sizes.hidden;
  }
}

TEST(GemmI4F8Chain, SameBitsAsOneLaunchAfterAnother) {
  FIREQ_NEEDS_HOPPER();
  const GemmDevice device = QueryGemmDevice();
  ExpectTheSameBits({128, 128, 128, 192}, device, 5);
  ExpectTheSameBits({1024, 512, 1536, 1536}, device, 20);
  ExpectTheSameBits({640, 1152, 2688, 960}, device, 20);  // steps that are not whole
  ExpectTheSameBits({4096, 4096, 14336, 6144}, device, 50);
  ExpectTheSameBits({5120, 5120, 13824, 15360}, device, 20);
}

// Several tiles a cluster where the device has few.
TEST(GemmI4F8Chain, FewClusters) {
  FIREQ_NEEDS_HOPPER();
  GemmDevice device;
  for (const int clusters : {1, 3}) {
    device.max_clusters.fill(clusters);
    ExpectTheSameBits({1024, 1024, 1536, 1536}, device, 5);
    ExpectTheSameBits({1152, 640, 4096, 1536}, device, 5);
  }
}

TEST(GemmI4F8Chain, TakesABlocksLinearsInTheirOrder) {
  FIREQ_NEEDS_HOPPER();
  Block block({1024, 512, 1536, 1536}, 3);
  const std::vector<GemmI4F8Args> links = block.Links(4);
  for (size_t i = 0; i < 4; ++i)
    for (size_t place = 0; place < 5; ++place)
      EXPECT_EQ(FitsGemmChain(links[i], place),
                i == place || (i % 2 == 0 && place % 2 == 0 && place < 4))
          << i << " at " << place;
  GemmI4F8Args two = links[0];
  two.m = 2;
  EXPECT_FALSE(FitsGemmChain(two, 0));
  uint32_t meetings = 0;
  EXPECT_THROW(LaunchGemmChain(std::span(links).last(2), {}, &meetings, nullptr), Error);
  EXPECT_THROW(LaunchGemmChain({}, {}, &meetings, nullptr), Error);
}

}  // namespace
}  // namespace fireq::sm90
