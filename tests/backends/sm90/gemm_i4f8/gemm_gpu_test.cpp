#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "fireq/backends/sm90/gemm_i4f8/wide_config.h"
#include "tests/backends/sm90/gemm_i4f8/device_case.h"

namespace fireq::sm90 {
namespace {

// Relative Frobenius error that a policy may have before its output is rounded; FP16 outputs add
// 2^-12 of their own.
constexpr double kExactBound = 1e-3;
constexpr double kTableBound = 5e-3;

constexpr const char* kTableVariants[] = {
    "table_256x128", "table_192x128",       "table_128x128",      "table_128x64",
    "table_256x64",  "table_256x128_dealt", "table_128x128_dealt"};

GemmPlan TablePlan(const GemmShape& shape, const char* name, bool cut) {
  const int variant = FindGemmVariant(name);
  const int cluster = kGemmVariants[static_cast<size_t>(variant)].wide_cluster;
  return MakeForcedGemmPlan(shape, variant, cluster, {}, cut);
}

class GemmI4F8 : public testing::Test {
 protected:
  void SetUp() override {
    if (HasHopper()) return;
    if (std::getenv("FIREQ_REQUIRE_GPU") != nullptr) FAIL() << "no GPU of compute capability 9.0";
    GTEST_SKIP() << "no GPU of compute capability 9.0";
  }
};

std::vector<double> ToDoubles(const std::vector<uint16_t>& bits, OutType out, size_t count) {
  std::vector<double> v(count);
  for (size_t i = 0; i < count; ++i)
    v[i] = out == OutType::kBf16 ? Bf16ToFloat(bits[i]) : F16ToFloat(bits[i]);
  return v;
}

// What the epilogue makes of the sums, in double; `round` is the border between product and sum.
std::vector<double> Finish(const GemmCase& c, const std::vector<double>& sums,
                           GemmEpilogue epilogue) {
  if (epilogue == GemmEpilogue::kPlain) return sums;
  std::vector<double> y;
  for (int64_t i = 0; i < c.m; ++i) {
    const double* row = sums.data() + i * c.n;
    if (epilogue == GemmEpilogue::kResidual) {
      for (int64_t j = 0; j < c.n; ++j)
        y.push_back(RoundToBf16(static_cast<float>(row[j])) +
                    Bf16ToFloat(c.residual[static_cast<size_t>(i * c.n + j)]));
      continue;
    }
    for (int64_t j = 0; j < c.n / 2; ++j) {
      const double gate = row[j / 8 * 16 + j % 8], up = row[j / 8 * 16 + 8 + j % 8];
      y.push_back(gate / (1.0 + std::exp(-gate)) * up);
    }
  }
  return y;
}

void Check(const GemmCase& c, DeviceCase& device, const GemmPlan& plan, GemmEpilogue epilogue,
           const std::vector<double>& sums, bool with_bias) {
  const bool table = plan.kernel().kernel == GemmKernel::kWide;
  // FP16 shows the sums; a residual's border is BF16.
  const OutType out = epilogue == GemmEpilogue::kResidual ? OutType::kBf16 : OutType::kF16;
  const std::vector<double> want = Finish(c, sums, epilogue);
  const std::vector<uint16_t> bits = device.Run(plan, epilogue, out, with_bias);
  const double error = RelativeError(ToDoubles(bits, out, want.size()), want);
  const double bound = (table ? kTableBound : kExactBound) +
                       (out == OutType::kBf16 ? 0x1p-8 : 0x1p-12) +
                       (epilogue == GemmEpilogue::kSiluMul ? (table ? 5e-3 : 1e-3) : 0.0);
  EXPECT_LE(error, bound) << plan.why << " m " << c.m << " n " << c.n << " k " << c.k
                          << " epilogue " << static_cast<int>(epilogue);
  EXPECT_FALSE(std::isnan(error)) << plan.why << " m " << c.m << " n " << c.n << " k " << c.k;
  for (size_t i = want.size(); i < bits.size(); ++i)
    ASSERT_EQ(bits[i], 0xFFFF) << "written past the end, " << i - want.size();
  EXPECT_EQ(bits, device.Run(plan, epilogue, out, with_bias)) << plan.why << ": not repeatable";
  std::printf("%-14s c%d m %5ld n %5ld k %5ld epilogue %d error %.2e\n", plan.kernel().name,
              plan.cluster, static_cast<long>(c.m), static_cast<long>(c.n), static_cast<long>(c.k),
              static_cast<int>(epilogue), error);
}

// `gpu`: with few clusters each works on several tiles.
void CheckAllPlans(int64_t m, int64_t n, int64_t k, Data data, const GemmDevice& gpu = {}) {
  const GemmCase plain(m, n, k, false, data, 17), fused(m, n, k, true, data, 18);
  DeviceCase on_device{plain}, fused_on_device{fused};
  for (const bool table : {false, true}) {
    const std::vector<double> sums = plain.Reference(table, true);
    const std::vector<double> fused_sums = fused.Reference(table, false);
    for (int v = 0; v < static_cast<int>(kGemmVariants.size()); ++v) {
      if (kGemmVariants[static_cast<size_t>(v)].resident_groups > 0) continue;  // takes BF16
      const GemmVariant& variant = kGemmVariants[static_cast<size_t>(v)];
      const bool wide = variant.kernel == GemmKernel::kWide;
      if (wide != table) continue;
      for (const int cluster : {1, 2, 3, 4, 5, 8}) {
        if (wide && cluster != variant.wide_cluster) continue;
        if (!wide && MakeForcedGemmPlan({m, n, k}, v, 1).units < cluster) continue;
        const GemmPlan plan = MakeForcedGemmPlan({m, n, k}, v, cluster, gpu, wide);
        Check(plain, on_device, plan, GemmEpilogue::kPlain, sums, true);
        Check(plain, on_device, plan, GemmEpilogue::kResidual, sums, true);
        Check(fused, fused_on_device, plan, GemmEpilogue::kSiluMul, fused_sums, false);
      }
    }
  }
}

TEST_F(GemmI4F8, EveryPlanAndEpilogueOnRandomData) { CheckAllPlans(37, 448, 1664, Data::kRandom); }
TEST_F(GemmI4F8, SeveralTilesACluster) {
  GemmDevice gpu;
  gpu.max_clusters.fill(2);
  CheckAllPlans(37, 448, 1664, Data::kRandom, gpu);
  gpu.max_clusters.fill(1);
  CheckAllPlans(130, 448, 1152, Data::kRandom, gpu);  // three units: rings begin halfway
}
TEST_F(GemmI4F8, ShortLastGroup) { CheckAllPlans(5, 192, 576, Data::kRandom); }
TEST_F(GemmI4F8, ShortLastGroupAndManyTokens) { CheckAllPlans(133, 192, 576, Data::kRandom); }
TEST_F(GemmI4F8, OneTokenAndTheSmallestWeight) { CheckAllPlans(1, 64, 64, Data::kRandom); }
TEST_F(GemmI4F8, ManyTokens) { CheckAllPlans(515, 320, 640, Data::kSymmetric); }
TEST_F(GemmI4F8, OutlierScales) { CheckAllPlans(18, 128, 1024, Data::kOutlierScales); }
TEST_F(GemmI4F8, ExtremesOfTheFormats) { CheckAllPlans(18, 128, 512, Data::kExtremes); }
TEST_F(GemmI4F8, ZeroRows) { CheckAllPlans(9, 128, 512, Data::kZeroRows); }

// What the planner picks by itself for the linears of a small model, tuned or not.
TEST_F(GemmI4F8, PlannedLaunchesOfASmallModel) {
  const GemmDevice device = QueryGemmDevice();
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{960, 576}, {576, 576}, {3072, 576}, {576, 1536}}) {
    for (const int64_t m : {1, 5, 17, 33, 65, 129}) {
      const GemmCase c(m, n, k, false, Data::kRandom, 19);
      DeviceCase on_device{c};
      for (const Products products : {Products::kExact, Products::kTable})
        Check(c, on_device, MakeGemmPlan({m, n, k}, products, device), GemmEpilogue::kPlain,
              c.Reference(products == Products::kTable, false), false);
    }
  }
}

// Whole tiles, and where sums are handed over: tiles of several clusters, ends of helpers.
void CheckWholeAndCut(const GemmCase& c) {
  DeviceCase device{c};
  const std::vector<double> exact = c.Reference(false, false), table = c.Reference(true, false);
  int cuts = 0;
  for (int v = 0; v < static_cast<int>(kGemmVariants.size()); ++v) {
    if (kGemmVariants[static_cast<size_t>(v)].resident_groups > 0) continue;  // takes BF16
    const GemmVariant& variant = kGemmVariants[static_cast<size_t>(v)];
    const bool wide = variant.kernel == GemmKernel::kWide;
    for (const bool cut : {false, true}) {
      const int cluster = wide ? variant.wide_cluster : 1;
      const GemmPlan plan = MakeForcedGemmPlan({c.m, c.n, c.k}, v, cluster, {}, cut);
      cuts += plan.cuts_tiles();
      Check(c, device, plan, GemmEpilogue::kPlain, wide ? table : exact, false);
    }
  }
  EXPECT_EQ(cuts, 7);  // six of kTableVariants, and one with helpers
}

TEST_F(GemmI4F8, NaNPoisonsItsOwnRowOnly) {
  GemmCase c(70, 192, 2112, false, Data::kRandom, 3);
  for (int64_t j = 0; j < c.k; ++j) c.x[static_cast<size_t>(33 * c.k + j)] = 0x7F;
  c.SumTokens();
  CheckWholeAndCut(c);
}
TEST_F(GemmI4F8, ExtremesAreHandedOver) {
  CheckWholeAndCut({70, 192, 2112, false, Data::kExtremes, 9});
}

TEST_F(GemmI4F8, NoTokensDoNothing) {
  const GemmCase c(1, 64, 128, false, Data::kRandom, 4);
  DeviceCase device{c};
  GemmI4F8Args args;
  args.layout = {c.n, c.k};
  LaunchGemmI4F8({}, args, nullptr);
}

// Tiles cut along K, after whole ones and without, against the same kernel with whole tiles only.
TEST_F(GemmI4F8, TilesCutAlongKAgreeWithWholeOnes) {
  std::map<std::string, int> cases;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{515, 11776, 2112},
                                {200, 4096, 4096},
                                {70, 4096, 2112},
                                {70, 11776, 2112}}) {
    const GemmCase c(m, n, k, false, Data::kRandom, 6);
    DeviceCase device{c};
    for (const char* name : kTableVariants) {
      const GemmPlan cut = TablePlan({m, n, k}, name, true);
      const GemmPlan whole = TablePlan({m, n, k}, name, false);
      EXPECT_FALSE(whole.cuts_tiles());
      if (!cut.cuts_tiles()) continue;
      ++cases[name];
      for (const GemmEpilogue epilogue : {GemmEpilogue::kPlain, GemmEpilogue::kResidual}) {
        const auto want = device.Run(whole, epilogue, OutType::kBf16, true);
        const auto got = device.Run(cut, epilogue, OutType::kBf16, true);
        const auto count = static_cast<size_t>(m * n);
        EXPECT_LE(RelativeError(ToDoubles(got, OutType::kBf16, count),
                                ToDoubles(want, OutType::kBf16, count)),
                  kTableBound)
            << cut.why;
        EXPECT_EQ(got, device.Run(cut, epilogue, OutType::kBf16, true)) << "not repeatable";
      }
    }
  }
  for (const char* name : kTableVariants) {
    const GemmVariant& v = kGemmVariants[static_cast<size_t>(FindGemmVariant(name))];
    EXPECT_EQ(cases[name] > 0, !WideOneTile(v.tokens, v.groups)) << name;
  }
}

// The first tokens of a case, as many as may be in a tile or two; sums of absent ones are handed
// over, too.
TEST_F(GemmI4F8, TilesCutAlongKOfAnyTokenCount) {
  const GemmCase c(256, 192, 2112, true, Data::kRandom, 8);
  DeviceCase device{c};
  for (const char* name : {"table_128x64", "table_128x128", "table_256x128"}) {
    for (int64_t m = 1; m <= c.m; ++m) {
      if (m % 7 != 1 && (m + 1) % 32 > 2) continue;  // some, and those about a chunk's end
      const GemmPlan cut = TablePlan({m, c.n, c.k}, name, true);
      const GemmPlan whole = TablePlan({m, c.n, c.k}, name, false);
      ASSERT_TRUE(cut.cuts_tiles()) << cut.why;
      for (const GemmEpilogue epilogue :
           {GemmEpilogue::kPlain, GemmEpilogue::kResidual, GemmEpilogue::kSiluMul}) {
        const bool fused = epilogue == GemmEpilogue::kSiluMul;
        GemmI4F8Args args = device.Args(epilogue, OutType::kBf16, !fused);
        args.m = m;
        const auto count = static_cast<size_t>(m * c.n / (fused ? 2 : 1));
        const auto want = device.Run(whole, args), got = device.Run(cut, args);
        ASSERT_LE(RelativeError(ToDoubles(got, OutType::kBf16, count),
                                ToDoubles(want, OutType::kBf16, count)),
                  kTableBound)
            << name << " m " << m << " epilogue " << static_cast<int>(epilogue);
        for (size_t i = count; i < got.size(); ++i)
          ASSERT_EQ(got[i], 0xFFFF) << name << " m " << m << ": written past the end";
      }
    }
  }
}

// Launches close on one another in one workspace, of other tokens and other plans than the one
// before: each finds it as the first did.
TEST_F(GemmI4F8, TilesCutAlongKFollowOneAnother) {
  constexpr int kReplays = 300;
  const GemmCase first(128, 4096, 2112, false, Data::kRandom, 11);
  GemmCase second = first;
  std::mt19937 rng(12);
  second.MakeTokens(rng, Data::kRandom);
  DeviceCase a{first}, b{second};
  struct Call {
    GemmPlan plan;
    GemmI4F8Args args;
    DeviceBuffer<uint16_t> y;
    std::vector<uint16_t> want;
  };
  std::vector<Call> calls;
  for (const char* name : {"table_128x64", "table_128x128", "table_256x128", "table_128x64"}) {
    const GemmPlan plan = TablePlan({128, 4096, 2112}, name, true);
    ASSERT_TRUE(plan.cuts_tiles()) << plan.why;
    for (DeviceCase* device : {&a, &b}) {
      Call call{plan, device->Args(GemmEpilogue::kPlain, OutType::kBf16, true),
                DeviceBuffer<uint16_t>(first.m * first.n),
                device->Run(plan, GemmEpilogue::kPlain, OutType::kBf16, true)};
      call.want.resize(static_cast<size_t>(call.y.count()));
      call.args.workspace = a.workspace.data();
      call.args.y = call.y.data();
      calls.push_back(std::move(call));
    }
  }
  const Stream stream;
  const Graph graph([&](cudaStream_t capture) {
    for (const Call& call : calls) LaunchGemmI4F8(call.plan, call.args, capture);
  });
  for (int i = 0; i < kReplays; ++i) graph.Launch(stream.get());
  stream.Synchronize();
  for (const Call& call : calls) EXPECT_EQ(call.y.ToHost(), call.want) << call.plan.why;
}

// The ends of parts by helpers, one or several for each of them, against the same tiles without.
TEST_F(GemmI4F8, TilesWithHelpersAgreeWithWholeOnes) {
  struct Case {
    int64_t m, n, k;
    int cluster, clusters;  // of the device
  };
  const int variant = FindGemmVariant("exact_64x128_deep");
  for (const auto& [m, n, k, cluster, clusters] : {Case{64, 1280, 8192, 1, 12},
                                                   {37, 1216, 4160, 1, 20},
                                                   {100, 1280, 4096, 1, 25},
                                                   {64, 256, 8192, 4, 3},
                                                   {33, 192, 8192, 4, 4},
                                                   {64, 384, 4096, 2, 5}}) {
    GemmDevice gpu;
    gpu.max_clusters[static_cast<size_t>(cluster)] = clusters;
    const GemmPlan whole = MakeForcedGemmPlan({m, n, k}, variant, cluster);
    const GemmPlan cut = MakeForcedGemmPlan({m, n, k}, variant, cluster, gpu, true);
    ASSERT_GT(cut.helpers, 0) << m << " x " << n << " x " << k;
    for (const GemmEpilogue epilogue :
         {GemmEpilogue::kPlain, GemmEpilogue::kResidual, GemmEpilogue::kSiluMul}) {
      const bool fused = epilogue == GemmEpilogue::kSiluMul;
      const GemmCase c(m, n, k, fused, Data::kRandom, 7);
      DeviceCase device{c};
      const auto count = static_cast<size_t>(m * n / (fused ? 2 : 1));
      const auto want = device.Run(whole, epilogue, OutType::kF16, !fused);
      for (int run = 0; run < 3; ++run) {
        const auto got = device.Run(cut, epilogue, OutType::kF16, !fused);
        EXPECT_LE(RelativeError(ToDoubles(got, OutType::kF16, count),
                                ToDoubles(want, OutType::kF16, count)),
                  kExactBound)
            << m << " x " << n << " x " << k << ", epilogue " << static_cast<int>(epilogue);
        EXPECT_EQ(got, device.Run(cut, epilogue, OutType::kF16, !fused)) << "not repeatable";
      }
    }
  }
}

// The boxes of all ranks, in the memory of one GPU.
struct Boxes {
  PeerBoxLayout layout;
  std::vector<DeviceBuffer<uint8_t>> of_ranks;
  DeviceBuffer<uint32_t> calls{kPeerSumCtas};

  explicit Boxes(int ranks) : layout(MakePeerBoxLayout(ranks)) {
    for (int r = 0; r < ranks; ++r) of_ranks.emplace_back(layout.size_bytes());
  }
  // Of a call behind `before` others, all boxes empty.
  PeerEnd EndOf(int rank, uint32_t before) {
    calls.CopyFrom(std::vector<uint32_t>(kPeerSumCtas, before).data(), kPeerSumCtas);
    PeerEnd end;
    end.layout = layout;
    end.calls = calls.data();
    end.rank = rank;
    for (size_t r = 0; r < of_ranks.size(); ++r) {
      of_ranks[r].FillBytes(kEmptyBoxByte);
      end.boxes[r] = of_ranks[r].data();
    }
    return end;
  }
};

// What rank `rank` of `boxes` sends in the call behind `before` others: the plain epilogue's `y`,
// each token in its owner's box, in this rank's slot of the call's turn, and nothing anywhere else.
void CheckSent(DeviceCase& device, const GemmPlan& plan, Boxes& boxes, int rank, uint32_t before,
               const std::vector<uint16_t>& y) {
  const GemmCase& c = device.c;
  const PeerEnd end = boxes.EndOf(rank, before);
  GemmI4F8Args args = device.Args(GemmEpilogue::kSend, OutType::kBf16, true);
  args.y = nullptr;
  args.end = &end;
  const Stream stream;
  LaunchGemmI4F8(plan, args, stream.get());
  stream.Synchronize();
  const int turn = before % 2 == 0 ? 1 : 0;
  for (int owner = 0; owner < boxes.layout.ranks; ++owner) {
    std::vector<uint8_t> want(static_cast<size_t>(boxes.layout.size_bytes()), kEmptyBoxByte);
    for (int64_t token = owner; token < c.m; token += boxes.layout.ranks)
      std::memcpy(want.data() + boxes.layout.slot(turn, rank) + 2 * token * c.n,
                  y.data() + token * c.n, static_cast<size_t>(2 * c.n));
    const std::vector<uint8_t> got = boxes.of_ranks[static_cast<size_t>(owner)].ToHost();
    const auto [at, other] = std::mismatch(got.begin(), got.end(), want.begin());
    EXPECT_TRUE(at == got.end()) << plan.why << (plan.helpers > 0 ? ", helpers" : "") << ", m "
                                 << c.m << ", rank " << rank << " of " << boxes.layout.ranks
                                 << ", box " << owner << ", byte " << at - got.begin();
  }
}

// With helpers, of one end each and of several, of clusters that exchange, of two tiles of tokens
// (which three ranks do not own alike), and of tiles that are short of tokens, rows and K.
TEST_F(GemmI4F8, SentOutputsAreThePlainOnes) {
  struct Case {
    int64_t m, n, k;
    int ranks, cluster, clusters;  // of the device
  };
  for (const auto& [m, n, k, ranks, cluster, clusters] : {Case{64, 5632, 4096, 4, 1, 132},
                                                          {100, 5312, 4096, 3, 1, 132},
                                                          {64, 5632, 4096, 4, 2, 66},
                                                          {57, 6208, 4160, 4, 1, 132}}) {
    GemmCase c(m, n, k, false, Data::kRandom, 8);
    for (int64_t j = 0; j < k; ++j) c.x[static_cast<size_t>(7 * k + j)] = 0x7F;  // NaN is sent, too
    c.SumTokens();
    DeviceCase device{c};
    Boxes boxes(ranks);
    ASSERT_TRUE(RanksOwnRows(boxes.layout, m, n));
    GemmDevice gpu;
    gpu.max_clusters[static_cast<size_t>(cluster)] = clusters;
    int helped = 0;
    for (int v = 0; v < static_cast<int>(kGemmVariants.size()); ++v) {
      const GemmVariant& variant = kGemmVariants[static_cast<size_t>(v)];
      if (!variant.sends()) continue;
      for (const bool cut : {false, true}) {
        if (cut && !variant.has_helpers()) continue;
        const GemmPlan plan = MakeForcedGemmPlan({m, n, k}, v, cluster, gpu, cut);
        EXPECT_EQ(plan.helpers > 0, cut) << plan.why;
        helped += plan.helpers;
        std::vector<uint16_t> y = device.Run(plan, GemmEpilogue::kPlain, OutType::kBf16, true);
        y.resize(static_cast<size_t>(m * n));
        for (const uint16_t value : y) ASSERT_NE(value, 0xFFFF) << "an empty word";
        CheckSent(device, plan, boxes, 0, 0, y);
        CheckSent(device, plan, boxes, ranks - 1, 7, y);
      }
    }
    EXPECT_GT(helped, 0);
  }
}

TEST_F(GemmI4F8, DeepSumsOfTheTableStayInBounds) {
  const GemmCase c(64, 128, 28672, false, Data::kRandom, 5);
  DeviceCase device{c};
  const std::vector<double> exact = c.Reference(false, false), table = c.Reference(true, false);
  for (const char* name : kTableVariants)
    for (const bool cut : {false, true})
      Check(c, device, TablePlan({c.m, c.n, c.k}, name, cut), GemmEpilogue::kPlain, table, false);
  Check(c, device, MakeForcedGemmPlan({c.m, c.n, c.k}, FindGemmVariant("exact_64x192"), 2),
        GemmEpilogue::kPlain, exact, false);
}

// Needs no GPU. What RowsReady promises: each block of rows that is announced is counted to `full`
// by tiles that are not cut, and at least one row is not announced.
TEST(GemmI4F8RowsReady, AreOfWholeTilesAndNotAllRows) {
  const auto ready = [](const GemmPlan& plan, const GemmShape& shape, bool announces) {
    static uint8_t workspace;
    GemmI4F8Args args;
    args.layout.n = shape.n;
    args.layout.k = shape.k;
    args.m = shape.m;
    args.workspace = &workspace;
    args.announces = announces;
    return RowsReadyEarly(plan, args);
  };
  const auto served = [](const GemmShape& shape) {
    return MakeGemmPlan(shape, Products::kServed, {});
  };
  struct Case {
    GemmShape shape;
    int64_t before;
  };
  // What tests of the backend and of replays mean to run.
  for (const auto& [shape, before] :
       {Case{{256, 28672, 4096}, 0}, Case{{1000, 8192, 512}, 768}, Case{{1024, 28672, 4096}, 768},
        Case{{1024, 22016, 4096}, 768}}) {
    EXPECT_EQ(ready(served(shape), shape, true).before, before) << shape.m << " x " << shape.n;
    EXPECT_EQ(ready(served(shape), shape, false).before, 0);
  }
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8192, 512},
                             {22016, 4096},
                             {28672, 4096},
                             {27648, 5120},
                             {14336, 8192}}) {
    for (int64_t i = 0; i < 3 * 64; ++i) {
      const int64_t m = 64 * (1 + i / 3) + i % 3 - 1;
      const GemmShape shape{m, n, k};
      const GemmPlan plan = served(shape);
      const RowsReady rows = ready(plan, shape, true);
      if (rows.before == 0) continue;
      ASSERT_LT(rows.before, m);
      ASSERT_EQ(rows.before % rows.rows, 0);
      const auto announced = static_cast<int>(rows.before / rows.rows);
      const int token_tiles = announced + 1;
      const WideTileOrder order(plan.tiles / token_tiles, token_tiles,
                                TokenTilesOfEarlyBand(token_tiles));
      std::vector<uint32_t> counts(static_cast<size_t>(token_tiles));
      for (int tile = 0; tile < plan.whole_tiles; ++tile)
        counts[static_cast<size_t>(order.At(tile).token_tile)] +=
            static_cast<uint32_t>(plan.cluster);
      for (int tile = 0; tile < announced; ++tile)
        ASSERT_EQ(counts[static_cast<size_t>(tile)], rows.full) << m << " x " << n << ": " << tile;
    }
  }
}

}  // namespace
}  // namespace fireq::sm90
