// The INT4 x FP8 GEMM against cuBLASLt FP8 and FP16 and against the plain read of its weights, all
// in one run on one GPU: bench_gemm [--tune] [--shapes all|NxK,...] [--tokens 1,2,...] > gemm.csv
//
// Weights rotate past L2, data is random, figures are medians of CUDA-graph batches. With --tune
// every sensible plan is timed (rows named by the plan, cN = clusters of N) and the best is printed
// as a row of the tuned table to stderr.
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "bench/gemm/device_data.h"
#include "bench/gemm/peers.h"
#include "bench/gemm/timing.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"

namespace fireq::bench {
namespace {

struct Shape {
  const char* model;
  const char* layer;
  int64_t n, k;
};
constexpr Shape kShapes[] = {
    {"Llama-2-7B", "qkv", 12288, 4096},      {"Llama-2-7B", "o", 4096, 4096},
    {"Llama-2-7B", "gate_up", 22016, 4096},  {"Llama-2-7B", "down", 4096, 11008},
    {"Llama-3-8B", "qkv", 6144, 4096},       {"Llama-3-8B", "gate_up", 28672, 4096},
    {"Llama-3-8B", "down", 4096, 14336},     {"Llama-2-13B", "qkv", 15360, 5120},
    {"Llama-2-13B", "o", 5120, 5120},        {"Llama-2-13B", "gate_up", 27648, 5120},
    {"Llama-2-13B", "down", 5120, 13824},    {"Llama-2-70B-TP4", "qkv", 2560, 8192},
    {"Llama-2-70B-TP4", "o", 8192, 2048},    {"Llama-2-70B-TP4", "gate_up", 14336, 8192},
    {"Llama-2-70B-TP4", "down", 8192, 7168},
};
constexpr int64_t kAllTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384};
constexpr int64_t kRotateBytes = int64_t{240} << 20;  // four times the L2

struct Options {
  bool tune = false;
  std::string shapes = "all";
  std::vector<int64_t> tokens{std::begin(kAllTokens), std::end(kAllTokens)};
};

// Buffers shared by all measurements: the largest of anything.
struct Arena {
  sm90::DeviceBuffer<uint8_t> weights{int64_t{1} << 30};  // INT4 tiles
  sm90::DeviceBuffer<uint8_t> fp8{int64_t{1} << 30};
  sm90::DeviceBuffer<uint16_t> fp16{int64_t{1} << 29};
  sm90::DeviceBuffer<uint8_t> x8{int64_t{16384} * 14336};
  sm90::DeviceBuffer<uint16_t> x16{int64_t{16384} * 14336};
  sm90::DeviceBuffer<float> x_scales{16384}, x_sums{int64_t{16384} * 112}, row_scales{28672};
  sm90::DeviceBuffer<uint16_t> y{int64_t{16384} * 28672};
  sm90::DeviceBuffer<uint32_t> sink{16};

  Arena() {
    FillTiles(weights.data(), weights.count() / kTileBytes, false, 1);
    FillE4M3(fp8.data(), fp8.count(), 2);
    FillF16(fp16.data(), fp16.count(), 3);
    FillE4M3(x8.data(), x8.count(), 4);
    FillF16(x16.data(), x16.count(), 5);
    FillFloats(x_scales.data(), x_scales.count(), 1e-4f, 1e-3f, 6);
    FillFloats(x_sums.data(), x_sums.count(), -2000.0f, 2000.0f, 7);
    FillFloats(row_scales.data(), row_scales.count(), 0.25f, 0.25f, 8);
    FIREQ_CUDA(cudaDeviceSynchronize());
  }
};

int64_t Copies(int64_t bytes, int64_t room) {
  return std::max<int64_t>(1, std::min(CeilDiv(kRotateBytes, bytes), room / bytes));
}

class GemmBench {
 public:
  GemmBench(const Shape& shape, const Arena& arena, const sm90::GemmDevice& device)
      : shape_(shape), arena_(arena), device_(device), layout_{shape.n, shape.k} {
    floor_us_ = Floor();
  }

  void Run(int64_t m, bool tune) {
    m_ = m;
    fp8_us_ = Peer(true);
    fp16_us_ = Peer(false);
    const sm90::GemmPlan served = sm90::MakeGemmPlan({m, shape_.n, shape_.k}, Products::kServed);
    Row("fireq", Time(served, repeats()));
    for (const Products products : {Products::kExact, Products::kTable}) {
      const sm90::GemmPlan plan = sm90::MakeGemmPlan({m, shape_.n, shape_.k}, products);
      if (tune)
        Tune(products);
      else if (plan.variant != served.variant)
        Row(Name(plan), Time(plan, repeats()));
    }
    std::fflush(stdout);
  }

 private:
  int repeats() const { return m_ >= 4096 ? 5 : 15; }
  static std::string Name(const sm90::GemmPlan& plan) {
    return StrCat(plan.kernel().name, "_c", plan.cluster);
  }

  void Row(const std::string& kernel, double us) const {
    std::printf("%s,%s,%ld,%ld,%ld,%s,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f\n", shape_.model, shape_.layer,
                static_cast<long>(m_), static_cast<long>(shape_.n), static_cast<long>(shape_.k),
                kernel.c_str(), us, floor_us_, fp8_us_, fp16_us_, us / floor_us_, us / fp8_us_);
  }

  double Floor() const {
    // What a checkpoint holds: codes, and a scale and a zero point a group.
    const WeightI4Layout logical{shape_.n, shape_.k};
    const int64_t bytes = AlignUp<int64_t>(logical.code_bytes() + 2 * logical.scale_bytes(), 4096);
    const int64_t copies = Copies(bytes, arena_.weights.count());
    double best = 1e30;
    for (const int unroll : {4, 8}) {
      for (const int ctas : {2, 4, 8}) {
        best = std::min(best, MedianUs(
                                  [&](cudaStream_t stream, int i) {
                                    ReadBytes(arena_.weights.data() + i % copies * bytes, bytes,
                                              unroll, ctas, arena_.sink.data(), stream);
                                  },
                                  40, 15));
      }
    }
    return best;
  }

  double Peer(bool fp8) const {
    const CublasLtGemm gemm(m_, shape_.n, shape_.k, fp8);
    const int64_t bytes = shape_.n * shape_.k * (fp8 ? 1 : 2);
    const int64_t copies = Copies(bytes, arena_.fp8.count());
    const auto* weights = fp8 ? arena_.fp8.data() : reinterpret_cast<uint8_t*>(arena_.fp16.data());
    const void* x = fp8 ? static_cast<const void*>(arena_.x8.data()) : arena_.x16.data();
    double best = 1e30;
    for (int a = 0; a < gemm.num_algorithms(); ++a) {
      const auto launch = [&](cudaStream_t stream, int i) {
        gemm.Launch(a, x, weights + i % copies * bytes, arena_.y.data(), stream);
      };
      const double guess = MedianUs(launch, 2, 3);
      if (guess > 1.5 * best) continue;
      best = std::min(best, MedianUs(launch, CallsFor(guess), repeats()));
    }
    return best;
  }

  double Time(const sm90::GemmPlan& plan, int repeats) const {
    const int64_t copies = Copies(layout_.size_bytes(), arena_.weights.count());
    sm90::GemmI4F8Args args;
    args.layout = layout_;
    args.row_scales = arena_.row_scales.data();
    args.m = m_;
    args.x = arena_.x8.data();
    args.x_scales = arena_.x_scales.data();
    args.x_sums = arena_.x_sums.data();
    args.y = arena_.y.data();
    const auto launch = [&](cudaStream_t stream, int i) {
      args.tiles = arena_.weights.data() + i % copies * layout_.size_bytes();
      sm90::LaunchGemmI4F8(plan, args, stream);
    };
    return MedianUs(launch, CallsFor(MedianUs(launch, 2, 3)), repeats);
  }

  // Every plan of a policy that may be best, as rows, and the best as a line of the tuned table.
  void Tune(Products products) const {
    const sm90::GemmShape shape{m_, shape_.n, shape_.k};
    double best = 1e30;
    std::string line;
    int bucket = 0;
    for (size_t i = 0; i < sm90::kGemmVariants.size(); ++i) {
      const sm90::GemmVariant& v = sm90::kGemmVariants[i];
      const bool table = v.kernel == sm90::GemmKernel::kWide;
      if (table != (products == Products::kTable)) continue;
      // Each policy where it may serve, and a little beyond.
      if (table ? m_ < 128 : m_ > 256) continue;
      if (!table && v.tokens < m_ && v.tokens != 128) continue;
      if (bucket == 0) bucket = v.tokens;
      if (!table && v.tokens > 2 * bucket) continue;
      for (int cluster = table ? 2 : 1; cluster <= (table ? 2 : 8); ++cluster) {
        if (!table && sm90::MakeForcedGemmPlan(shape, static_cast<int>(i), 1).units < cluster)
          continue;
        const sm90::GemmPlan plan =
            sm90::MakeForcedGemmPlan(shape, static_cast<int>(i), cluster, device_);
        if (cluster == 7) continue;  // never best: 15 clusters are all that fit
        const double us = Time(plan, 7);
        Row(Name(plan), us);
        if (us >= best) continue;
        best = us;
        line = StrCat("    {", shape_.n, ", ", shape_.k, ", ", m_, ", \"", v.name, "\", ", cluster,
                      "},");
      }
    }
    if (!line.empty()) std::fprintf(stderr, "%s  // %.2f us\n", line.c_str(), best);
  }

  Shape shape_;
  const Arena& arena_;
  const sm90::GemmDevice& device_;
  WeightTileLayout layout_;
  int64_t m_ = 0;
  double floor_us_ = 0.0, fp8_us_ = 0.0, fp16_us_ = 0.0;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--tune") {
      options.tune = true;
      continue;
    }
    FIREQ_CHECK(i + 1 < argc && (name == "--shapes" || name == "--tokens"), kInvalidArgument,
                "bench_gemm: ", name);
    const std::string value = argv[++i];
    if (name == "--shapes") {
      options.shapes = value;
      continue;
    }
    options.tokens.clear();
    std::stringstream list(value);
    for (std::string m; std::getline(list, m, ',');) options.tokens.push_back(std::stoll(m));
  }
  return options;
}

void RunAll(const Options& options) {
  const sm90::GemmDevice device = sm90::QueryGemmDevice();
  const Arena arena;
  std::printf(
      "model,layer,M,N,K,kernel,median_us,floor_us,cublaslt_fp8_us,cublaslt_fp16_us,ratio_floor,"
      "ratio_fp8\n");
  for (const Shape& shape : kShapes) {
    if (options.shapes != "all" &&
        ("," + options.shapes + ",").find(StrCat(",", shape.n, "x", shape.k, ",")) ==
            std::string::npos)
      continue;
    GemmBench bench(shape, arena, device);
    for (const int64_t m : options.tokens) bench.Run(m, options.tune);
  }
}

}  // namespace
}  // namespace fireq::bench

int main(int argc, char** argv) {
  try {
    fireq::bench::RunAll(fireq::bench::Parse(argc, argv));
    return 0;
  } catch (const fireq::Error& error) {
    std::fprintf(stderr, "bench_gemm: %s\n", error.what());
    return fireq::ExitCode(error.code());
  }
}
