// Token tiles of the wide kernel that are short of tokens, of which no others are copied.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "fireq/base/math.h"
#include "tests/backends/sm90/gemm_i4f8/device_case.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq::sm90 {
namespace {

constexpr uint8_t kNaN = 0x7F;
constexpr size_t kCutters = 6;  // variants that can cut tiles

// The first `m` of a case's tokens have the bits that they have in front of as many others as fill
// their tile, in every wide variant, whole and cut along K. Each launch is behind one in which
// every token is NaN, which then is what shared memory has where no token is copied. `gpu`: with
// few clusters each works on several tiles. Returns how many variants had tiles to cut.
size_t CheckTokenCounts(const std::vector<int64_t>& counts, int64_t n, int64_t k,
                        const GemmDevice& gpu) {
  constexpr int64_t kMostTokens = 576;  // whole tiles of 128, 192 and 256
  GemmCase c(kMostTokens, n, k, true, Data::kRandom, 21);
  for (const int64_t token : {0, 128, 159, 192, 256})  // the last of some
    std::fill_n(c.x.begin() + token * k, k, kNaN);
  DeviceCase device{c};
  const DeviceBuffer<uint8_t> all_nan{std::vector<uint8_t>(c.x.size(), kNaN)};
  DeviceBuffer<uint16_t> lost(kMostTokens * n);
  const Stream stream;
  std::set<const GemmVariant*> cutters;
  for (const GemmVariant& v : kGemmVariants) {
    if (v.kernel != GemmKernel::kWide) continue;
    for (const bool cut : {false, true}) {
      for (const GemmEpilogue epilogue :
           {GemmEpilogue::kPlain, GemmEpilogue::kResidual, GemmEpilogue::kSiluMul}) {
        GemmI4F8Args args = device.Args(epilogue, OutType::kBf16, true);
        const int64_t outputs = epilogue == GemmEpilogue::kSiluMul ? n / 2 : n;
        std::map<int64_t, std::vector<uint16_t>> whole;  // by count of tokens
        for (const int64_t m : counts) {
          const int64_t full = AlignUp<int64_t>(m, v.tokens);
          const GemmPlan plan = MakeForcedGemmPlan(
              {full, n, k}, static_cast<int>(&v - kGemmVariants.data()), v.wide_cluster, gpu, cut);
          if (cut && !plan.cuts_tiles()) continue;
          if (cut) cutters.insert(&v);
          std::vector<uint16_t>& want = whole[full];
          args.m = full;
          if (want.empty()) want = device.Run(plan, args);
          GemmI4F8Args before = args;
          before.x = all_nan.data();
          before.y = lost.data();
          LaunchGemmI4F8(plan, before, stream.get());
          stream.Synchronize();
          args.m = m;
          const std::vector<uint16_t> got = device.Run(plan, args);
          const auto end = got.begin() + m * outputs;
          const auto [at, other] = std::mismatch(got.begin(), end, want.begin());
          EXPECT_TRUE(at == end) << plan.why << ", m " << m << ", epilogue "
                                 << static_cast<int>(epilogue) << ": token "
                                 << (at - got.begin()) / outputs;
          EXPECT_TRUE(std::all_of(end, got.end(), [](uint16_t y) { return y == 0xFFFF; }))
              << plan.why << ", m " << m << ": written past the end";
          if (testing::Test::HasFailure()) return 0;
        }
      }
    }
  }
  return cutters.size();
}

GemmDevice OfClusters(int clusters) {
  GemmDevice gpu;
  gpu.max_clusters.fill(clusters);
  return gpu;
}

TEST(GemmI4F8TokenTiles, AFewCounts) {
  FIREQ_NEEDS_HOPPER();
  for (const GemmDevice& gpu : {GemmDevice{}, OfClusters(3)})
    EXPECT_EQ(CheckTokenCounts({1, 97, 129, 160, 193, 257}, 448, 1152, gpu), kCutters);
}

TEST(GemmI4F8TokenTiles, AnyCount) {
  FIREQ_NEEDS_HOPPER();
  std::vector<int64_t> counts;
  for (int64_t m = 1; m <= 260; ++m)
    if (m % 2 == 1 || (m + 2) % 8 <= 2) counts.push_back(m);
  EXPECT_EQ(CheckTokenCounts(counts, 192, 2112, {}), kCutters);
  std::erase_if(counts, [](int64_t m) { return m % 8 > 1 && m % 8 < 7 && m % 24 != 11; });
  for (const int64_t m : {300, 319, 320, 321, 383, 384, 385, 448, 500, 511, 512})
    counts.push_back(m);
  EXPECT_EQ(CheckTokenCounts(counts, 448, 1152, OfClusters(3)), kCutters);
}

}  // namespace
}  // namespace fireq::sm90
