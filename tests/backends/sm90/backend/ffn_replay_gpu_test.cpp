// Tens of thousands of launches, each before the last has drained: what hangs or races once in a
// hundred thousand.
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "fireq/backends/sm90/elementwise/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::sm90 {
namespace {

uint32_t Next(uint32_t& state) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

// Random codes, scales of either sign around one, random zero points.
std::vector<uint8_t> RandomTiles(const WeightTileLayout& layout) {
  std::vector<uint8_t> tiles(static_cast<size_t>(layout.size_bytes()));
  uint32_t state = 1;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const uint32_t bits = Next(state) >> 8;
    if (i % kTileBytes < kTileCodeBytes)
      tiles[i] = static_cast<uint8_t>(bits);
    else
      tiles[i] = static_cast<uint8_t>(i % 2 == 1 ? bits % 16 : (bits & 0x80) | (0x20 + bits % 16));
  }
  return tiles;
}

struct Rows {
  DeviceBuffer<uint8_t> codes;
  DeviceBuffer<float> scales, sums;
  Rows(int64_t m, int64_t k) : codes(m * k), scales(m), sums(m * CeilDiv<int64_t>(k, kGroup)) {}
  QuantizedRows view() const { return {codes.data(), scales.data(), sums.data()}; }
};

// quantise, gate|up with SiLU, quantise as its rows come, down.
class FfnLoop {
 public:
  FfnLoop(int64_t m, int64_t hidden, int64_t ffn)
      : up_{2 * ffn, hidden},
        down_{hidden, ffn},
        up_tiles_(RandomTiles(up_)),
        down_tiles_(RandomTiles(down_)),
        row_scales_(std::vector<float>(static_cast<size_t>(2 * ffn), 0.01f)),
        x_(m * hidden),
        h_(m * ffn),
        y_(m * hidden),
        x8_(m, hidden),
        h8_(m, ffn),
        workspace_(GemmWorkspaceBytes(device_)) {
    std::vector<uint16_t> x(static_cast<size_t>(m * hidden));
    uint32_t state = 2;
    for (auto& v : x) v = static_cast<uint16_t>(0x3F00 | (Next(state) >> 24) | (state & 0x8000));
    x_.CopyFrom(x.data(), x_.count());
    workspace_.FillBytes(0);
    FIREQ_CUDA(cudaDeviceSynchronize());
    m_ = m;
  }

  // Returns which rows of the hidden values may be read early.
  RowsReady LaunchUp(cudaStream_t stream) const {
    LaunchQuantizeRows({x_.data(), m_, up_.k, x8_.view()}, stream);
    return Gemm(up_, up_tiles_, x8_, GemmEpilogue::kSiluMul, h_.data(), stream);
  }
  void LaunchDown(const RowsReady& hidden, cudaStream_t stream) const {
    LaunchQuantizeRows({h_.data(), m_, down_.k, h8_.view(), hidden}, stream);
    Gemm(down_, down_tiles_, h8_, GemmEpilogue::kPlain, y_.data(), stream);
  }
  void Launch(cudaStream_t stream) const { LaunchDown(LaunchUp(stream), stream); }
  std::vector<uint16_t> Output() const { return y_.ToHost(); }
  // So that a row of h that is read before it is written shows.
  void PoisonHidden(cudaStream_t stream) const {
    FIREQ_CUDA(cudaMemsetAsync(h_.data(), 0xFF, static_cast<size_t>(2 * h_.count()), stream));
  }

 private:
  RowsReady Gemm(const WeightTileLayout& layout, const DeviceBuffer<uint8_t>& tiles,
                 const Rows& rows, GemmEpilogue epilogue, void* y, cudaStream_t stream) const {
    GemmI4F8Args args;
    args.layout = layout;
    args.tiles = tiles.data();
    args.row_scales = row_scales_.data();
    args.m = m_;
    args.x = rows.codes.data();
    args.x_scales = rows.scales.data();
    args.x_sums = rows.sums.data();
    args.epilogue = epilogue;
    args.y = y;
    args.workspace = workspace_.data();
    args.announces = epilogue == GemmEpilogue::kSiluMul;
    const GemmPlan plan = MakeGemmPlan({m_, layout.n, layout.k}, Products::kServed, device_);
    LaunchGemmI4F8(plan, args, stream);
    return RowsReadyEarly(plan, args);
  }

  GemmDevice device_ = QueryGemmDevice();
  int64_t m_ = 0;
  WeightTileLayout up_, down_;
  DeviceBuffer<uint8_t> up_tiles_, down_tiles_;
  DeviceBuffer<float> row_scales_;
  DeviceBuffer<uint16_t> x_, h_, y_;
  Rows x8_, h8_;
  DeviceBuffer<uint8_t> workspace_;
};

class FfnReplay : public testing::Test {
 protected:
  void SetUp() override {
    if (HasHopper()) return;
    if (std::getenv("FIREQ_REQUIRE_GPU") != nullptr) FAIL() << "no GPU of compute capability 9.0";
    GTEST_SKIP() << "no GPU of compute capability 9.0";
  }
};

TEST_F(FfnReplay, TwentyThousandReplaysGiveTheSameBits) {
  constexpr int kCalls = 10, kReplays = 2000;
  const FfnLoop ffn(256, 4096, 14336);
  const Stream stream;
  const Graph graph([&](cudaStream_t capture) {
    for (int i = 0; i < kCalls; ++i) ffn.Launch(capture);
  });
  graph.Launch(stream.get());
  stream.Synchronize();
  const std::vector<uint16_t> first = ffn.Output();
  for (int i = 0; i < kReplays; ++i) graph.Launch(stream.get());
  stream.Synchronize();
  EXPECT_EQ(first, ffn.Output());
}

// Rows that are quantised before gate|up has ended, beside rows of a GEMM that has: several bands
// of token tiles, a last one with few tokens, and (Llama-2-7B's) one whose last tiles are dealt.
TEST_F(FfnReplay, RowsReadyEarlyGiveTheSameBits) {
  constexpr int kReplays = 300;
  struct Case {
    int64_t m, ffn;
  };
  for (const auto& [m, ffn] :
       {Case{1024, 14336}, Case{1100, 14336}, Case{2600, 14336}, Case{1024, 11008}}) {
    const FfnLoop loop(m, 4096, ffn);
    const Stream stream;
    const RowsReady hidden = loop.LaunchUp(stream.get());
    EXPECT_GE(hidden.before, 768) << m;
    stream.Synchronize();
    loop.LaunchDown(hidden, stream.get());
    stream.Synchronize();
    const std::vector<uint16_t> apart = loop.Output();
    for (int i = 0; i < kReplays; ++i) {
      loop.PoisonHidden(stream.get());
      loop.Launch(stream.get());
    }
    stream.Synchronize();
    EXPECT_EQ(apart, loop.Output()) << m << " " << ffn;
  }
}

}  // namespace
}  // namespace fireq::sm90
