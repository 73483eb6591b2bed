// The INT4 x FP8 GEMM against cuBLASLt FP8 and FP16 and against the plain read of its weights, all
// in one run on one GPU (--help says the ways to run it).
//
// Weights rotate past L2, data is random, figures are medians of CUDA-graph batches. With --tune
// every sensible plan of the policy that serves is timed (rows named by the plan, cN = clusters of
// N) and the best is printed as a row of the tuned table to stderr.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "bench/gemm/arena.h"
#include "bench/gemm/peers.h"
#include "bench/gemm/suites.h"
#include "bench/gemm/timing.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/stream.h"

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
struct Options {
  bool tune = false;
  bool ffn = false;
  bool producers = false;
  bool profile = false;
  bool served = false;
  int replays = 0;  // of `served`: each of so many
  int pause_ms = 0;
  bool residual = false;
  std::string plans;  // a file of tuned rows
  int soak = 0;       // replays
  std::string shapes = "all";
  std::vector<int64_t> tokens{std::begin(kAllTokens), std::end(kAllTokens)};
};

class GemmBench {
 public:
  GemmBench(const Shape& shape, const Arena& arena, const sm90::GemmDevice& device,
            std::span<const sm90::TunedGemm> tuned, bool residual)
      : shape_(shape),
        arena_(arena),
        device_(device),
        tuned_(tuned),
        layout_{shape.n, shape.k},
        residual_(residual) {
    floor_us_ = Floor();
  }

  void Run(int64_t m, bool tune) {
    m_ = m;
    if (tune) {
      Tune(ResolveProducts(Products::kServed, m));
      return;
    }
    fp16_us_ = Peer(*this, false).us;
    const Peer fp8(*this, true);
    const sm90::GemmShape shape{m, shape_.n, shape_.k};
    const sm90::GemmPlan served = sm90::MakeGemmPlan(shape, Products::kServed, device_, tuned_);
    Row("fireq", InTurn(fp8, served));
    for (const Products products : {Products::kExact, Products::kTable}) {
      const sm90::GemmPlan plan = sm90::MakeGemmPlan(shape, products, device_, tuned_);
      if (plan.variant != served.variant) Row(Name(plan), Time(plan, repeats()));
    }
    std::fflush(stdout);
  }

  // The served plan by itself, for many values of M; cuBLASLt's columns are zeros.
  void RunServed(int64_t m) {
    m_ = m;
    const sm90::GemmPlan served =
        sm90::MakeGemmPlan({m, shape_.n, shape_.k}, Products::kServed, device_, tuned_);
    Row(Name(served), Time(served, repeats()));
    std::fflush(stdout);
  }
  // The same, each replay by itself.
  void RunReplays(int64_t m, int replays, int pause_ms) {
    m_ = m;
    const sm90::GemmPlan served =
        sm90::MakeGemmPlan({m, shape_.n, shape_.k}, Products::kServed, device_, tuned_);
    const Launcher launch = Ours(served);
    int i = 0;
    for (const Replay& r : Replays(launch, CallsFor(MedianUs(launch, 2, 3)), replays, pause_ms))
      std::printf("%s,%s,%ld,%ld,%ld,%s,%d,%d,%.3f,%.0f\n", shape_.model, shape_.layer,
                  static_cast<long>(m_), static_cast<long>(shape_.n), static_cast<long>(shape_.k),
                  Name(served).c_str(), pause_ms, i++, r.us, r.mhz);
    std::fflush(stdout);
  }

  // One launch of the served plan and one of cuBLASLt FP8's fastest algorithm, each behind launches
  // that a profiler does not see; a row for each, without times.
  void Profile(int64_t m) {
    m_ = m;
    const Peer fp8(*this, true);
    const sm90::GemmPlan served =
        sm90::MakeGemmPlan({m, shape_.n, shape_.k}, Products::kServed, device_, tuned_);
    const auto once = [&](const std::string& kernel, const Launcher& launch) {
      ProfileOnce(launch);
      std::printf("%s,%s,%ld,%ld,%ld,%s\n", shape_.model, shape_.layer, static_cast<long>(m_),
                  static_cast<long>(shape_.n), static_cast<long>(shape_.k), kernel.c_str());
    };
    once(Name(served), Ours(served));
    once("cublaslt_fp8", fp8.launch);
    std::fflush(stdout);
  }

 private:
  int repeats() const { return m_ >= 4096 ? 5 : 15; }
  static std::string Name(const sm90::GemmPlan& plan) {
    return StrCat(plan.kernel().name, plan.cuts_tiles() ? "_cut" : "", "_c", plan.cluster);
  }

  void Row(const std::string& kernel, double us) const {
    std::printf("%s,%s,%ld,%ld,%ld,%s,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f\n", shape_.model, shape_.layer,
                static_cast<long>(m_), static_cast<long>(shape_.n), static_cast<long>(shape_.k),
                kernel.c_str(), us, floor_us_, fp8_us_, fp16_us_, us / floor_us_,
                fp8_us_ > 0.0 ? us / fp8_us_ : 0.0);
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

  // cuBLASLt, and the best of its algorithms.
  struct Peer {
    CublasLtGemm gemm;
    Launcher launch;
    int algorithm = 0;
    double us = 1e30;

    Peer(const GemmBench& bench, bool fp8) : gemm(bench.m_, bench.shape_.n, bench.shape_.k, fp8) {
      const Arena& arena = bench.arena_;
      const int64_t bytes = bench.shape_.n * bench.shape_.k * (fp8 ? 1 : 2);
      const int64_t copies = Copies(bytes, arena.fp8.count());
      const auto* weights = fp8 ? arena.fp8.data() : reinterpret_cast<uint8_t*>(arena.fp16.data());
      const void* x = fp8 ? static_cast<const void*>(arena.x8.data()) : arena.x16.data();
      void* y = arena.y.data();
      int tried = 0;
      launch = [=, this, &tried](cudaStream_t stream, int i) {
        gemm.Launch(tried, x, weights + i % copies * bytes, y, stream);
      };
      for (; tried < gemm.num_algorithms(); ++tried) {
        const double guess = MedianUs(launch, 2, 3);
        if (guess > 1.2 * us) continue;
        const double timed = MedianUs(launch, CallsFor(guess), bench.repeats());
        if (timed >= us) continue;
        us = timed;
        algorithm = tried;
      }
      launch = [=, this](cudaStream_t stream, int i) {
        gemm.Launch(algorithm, x, weights + i % copies * bytes, y, stream);
      };
    }
  };

  Launcher Ours(const sm90::GemmPlan& plan) const {
    const int64_t copies = Copies(layout_.size_bytes(), arena_.weights.count());
    sm90::GemmI4F8Args args;
    args.layout = layout_;
    args.row_scales = arena_.row_scales.data();
    args.m = m_;
    args.x = arena_.x8.data();
    args.x_scales = arena_.x_scales.data();
    args.x_sums = arena_.x_sums.data();
    args.y = arena_.y.data();
    if (residual_) {
      args.epilogue = sm90::GemmEpilogue::kResidual;
      args.residual = args.y;  // in place, as a block's are
    }
    args.workspace = arena_.workspace.data();
    return [args, plan, copies, tiles = arena_.weights.data(), bytes = layout_.size_bytes()](
               cudaStream_t stream, int i) {
      sm90::GemmI4F8Args call = args;
      call.tiles = tiles + i % copies * bytes;
      sm90::LaunchGemmI4F8(plan, call, stream);
    };
  }
  // A plan's time, in turn with cuBLASLt's, which becomes that of its row.
  double InTurn(const Peer& fp8, const sm90::GemmPlan& plan) {
    const Launcher ours = Ours(plan);
    const std::array<double, 2> us = MediansInTurn(
        {fp8.launch, ours}, {CallsFor(fp8.us), CallsFor(MedianUs(ours, 2, 3))}, repeats());
    fp8_us_ = us[0];
    return us[1];
  }
  double Time(const sm90::GemmPlan& plan, int repeats) const {
    const Launcher launch = Ours(plan);
    return MedianUs(launch, CallsFor(MedianUs(launch, 2, 3)), repeats);
  }

  // Every plan of a policy that may be best.
  std::vector<sm90::TunedGemm> Candidates(Products products) const {
    std::vector<sm90::TunedGemm> found;
    const sm90::GemmShape shape{m_, shape_.n, shape_.k};
    int bucket = 0;
    for (const sm90::GemmVariant& v : sm90::kGemmVariants) {
      const bool table = v.kernel == sm90::GemmKernel::kWide;
      if (table != (products == Products::kTable) || v.resident_groups > 0) continue;
      if (table) {
        for (const bool cut : {false, true})
          if (cut || !v.deals) found.push_back({shape.n, shape.k, m_, v.name, v.wide_cluster, cut});
        continue;
      }
      if (v.tokens < m_ && v.tokens != 128) continue;
      if (bucket == 0) bucket = v.tokens;
      if (v.tokens > 2 * bucket) continue;
      for (const int cluster : {1, 2, 3, 4, 5, 6, 8})  // 7 is never best: 15 clusters at most
        for (const bool cut : {false, true})
          if (sm90::GemmUnits(v, shape.k) >= cluster && (!cut || v.has_helpers()))
            found.push_back({shape.n, shape.k, m_, v.name, cluster, cut});
    }
    return found;
  }

  // Times them, as rows; the best as a line of the tuned table on stderr. Each that may be the best
  // in turn with cuBLASLt FP8, as Run() times the served one: alone, on a cooler GPU, others win.
  void Tune(Products products) {
    const Peer fp8(*this, true);
    double best_us = 1e30, best_alone = 1e30;
    sm90::TunedGemm best{};
    for (const sm90::TunedGemm& row : Candidates(products)) {
      const sm90::GemmPlan plan = sm90::MakeForcedGemmPlan(
          {m_, row.n, row.k}, sm90::FindGemmVariant(row.variant), row.cluster, device_, row.cut);
      if (row.cut && !plan.cuts_tiles()) continue;
      const double alone = Time(plan, 3);
      if (alone > 1.3 * best_alone) continue;
      best_alone = std::min(best_alone, alone);
      const double us = InTurn(fp8, plan);
      Row(Name(plan), us);
      if (us >= best_us) continue;
      best_us = us;
      best = row;
    }
    std::fprintf(stderr, "    {%ld, %ld, %ld, \"%s\", %d, %s},  // %.2f us\n",
                 static_cast<long>(best.n), static_cast<long>(best.k),
                 static_cast<long>(best.max_m), best.variant, best.cluster,
                 best.cut ? "true" : "false", best_us);
  }

  Shape shape_;
  const Arena& arena_;
  const sm90::GemmDevice& device_;
  std::span<const sm90::TunedGemm> tuned_;
  WeightTileLayout layout_;
  bool residual_;
  int64_t m_ = 0;
  double floor_us_ = 0.0, fp8_us_ = 0.0, fp16_us_ = 0.0;
};

// Rows as Tune prints them, to try a table before it is committed; in front of the committed one.
std::vector<sm90::TunedGemm> ReadPlans(const std::string& path) {
  std::vector<sm90::TunedGemm> rows;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    long n = 0, k = 0, m = 0;
    int cluster = 0;
    char name[32] = "", cut[16] = "";
    if (std::sscanf(line.c_str(), " {%ld, %ld, %ld, \"%31[^\"]\", %d, %15[^}]", &n, &k, &m, name,
                    &cluster, cut) != 6)
      continue;
    const int variant = sm90::FindGemmVariant(name);
    FIREQ_CHECK(variant >= 0, kInvalidArgument, path, ": ", line);
    rows.push_back({n, k, m, sm90::kGemmVariants[static_cast<size_t>(variant)].name, cluster,
                    std::string_view(cut) == "true"});
  }
  rows.insert(rows.end(), sm90::TunedGemms().begin(), sm90::TunedGemms().end());
  return rows;
}

void AddOptions(CLI::App& app, Options& options) {
  app.add_option("--shapes", options.shapes, "all, or NxK,... of the table of shapes")
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "The values of M, as 1,16,4096")->delimiter(',');
  app.add_flag("--ffn", options.ffn, "gate|up, SiLU-mul, quantise, down beside cuBLASLt FP16");
  app.add_flag("--producers", options.producers, "What makes E4M3 rows, beside a copy");
  app.add_flag("--tune", options.tune, "Time every sensible plan; the best as rows on stderr");
  app.add_flag("--profile", options.profile,
               "Launch each row once, and cuBLASLt's, for ncu --profile-from-start off");
  app.add_flag("--served", options.served, "Only the plan that serves, without cuBLASLt");
  app.add_option("--replays", options.replays,
                 "With --served: each of so many replays, in order, and the GPU's clock meanwhile");
  app.add_option("--pause", options.pause_ms, "With --replays: milliseconds idle before each");
  app.add_flag("--residual", options.residual, "Ours adds a residual, as o and down do");
  app.add_option("--plans", options.plans, "File of tuned rows, used before the built-in ones");
  app.add_option("--soak", options.soak, "Replay a graph of FFNs so often, compare the bits");
  app.footer("One CSV on stdout. bench/gemm/report.py draws its roofline and sums it up.");
}

void RunAll(const Options& options) {
  const sm90::GemmDevice device = sm90::QueryGemmDevice();
  const Arena arena;
  if (options.producers && options.profile) return ProfileProducers(arena, options.tokens);
  if (options.producers) return BenchProducers(arena, options.tokens);
  const std::vector<sm90::TunedGemm> tuned = ReadPlans(options.plans);
  if (options.soak > 0) return SoakFfn(arena, options.tokens, device, tuned, options.soak);
  if (options.ffn && options.profile) return ProfileFfn(arena, options.tokens, device, tuned);
  if (options.ffn) return BenchFfn(arena, options.tokens, device, tuned);
  if (options.profile)
    std::printf("model,layer,M,N,K,kernel\n");
  else if (options.replays > 0)
    std::printf("model,layer,M,N,K,plan_kernel,pause_ms,replay,us,mhz\n");
  else
    std::printf(
        "model,layer,M,N,K,kernel,median_us,floor_us,cublaslt_fp8_us,cublaslt_fp16_us,ratio_floor,"
        "ratio_fp8\n");
  for (const Shape& shape : kShapes) {
    if (options.shapes != "all" &&
        ("," + options.shapes + ",").find(StrCat(",", shape.n, "x", shape.k, ",")) ==
            std::string::npos)
      continue;
    GemmBench bench(shape, arena, device, tuned, options.residual);
    for (const int64_t m : options.tokens) {
      if (options.profile)
        bench.Profile(m);
      else if (options.served && options.replays > 0)
        bench.RunReplays(m, options.replays, options.pause_ms);
      else if (options.served)
        bench.RunServed(m);
      else
        bench.Run(m, options.tune);
    }
  }
}

}  // namespace
}  // namespace fireq::bench

int main(int argc, char** argv) {
  CLI::App app{"The INT4 x FP8 GEMM beside cuBLASLt FP8 and FP16 and a plain read of its weights",
               "fireq bench gemm"};
  fireq::bench::Options options;
  fireq::bench::AddOptions(app, options);
  try {
    app.parse(argc, argv);
    fireq::bench::RunAll(options);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : fireq::ExitCode(fireq::ErrorCode::kInvalidArgument);
  } catch (const fireq::Error& error) {
    std::fprintf(stderr, "fireq bench gemm: %s\n", error.what());
    return fireq::ExitCode(error.code());
  }
}
