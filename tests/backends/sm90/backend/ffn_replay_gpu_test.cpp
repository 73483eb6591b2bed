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

// quantise, gate|up with SiLU, quantise, down.
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

  void Launch(cudaStream_t stream) const {
    LaunchQuantizeRows({x_.data(), m_, up_.k, x8_.view()}, stream);
    Gemm(up_, up_tiles_, x8_, GemmEpilogue::kSiluMul, h_.data(), stream);
    LaunchQuantizeRows({h_.data(), m_, down_.k, h8_.view()}, stream);
    Gemm(down_, down_tiles_, h8_, GemmEpilogue::kPlain, y_.data(), stream);
  }
  std::vector<uint16_t> Output() const { return y_.ToHost(); }

 private:
  void Gemm(const WeightTileLayout& layout, const DeviceBuffer<uint8_t>& tiles, const Rows& rows,
            GemmEpilogue epilogue, void* y, cudaStream_t stream) const {
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
    LaunchGemmI4F8(MakeGemmPlan({m_, layout.n, layout.k}, Products::kServed, device_), args,
                   stream);
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

TEST(FfnReplay, TwentyThousandReplaysGiveTheSameBits) {
  if (!HasHopper()) {
    if (std::getenv("FIREQ_REQUIRE_GPU") != nullptr) FAIL() << "no GPU of compute capability 9.0";
    GTEST_SKIP() << "no GPU of compute capability 9.0";
  }
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

}  // namespace
}  // namespace fireq::sm90
