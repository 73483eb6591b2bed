#include "bench/gemm/suites.h"

#include <cstdio>

#include "bench/gemm/peers.h"
#include "bench/gemm/timing.h"
#include "fireq/backends/sm90/elementwise/few_rows.h"
#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::bench {
namespace {

struct Ffn {
  const char* model;
  int64_t hidden, ffn;
};
constexpr Ffn kFfns[] = {{"Llama-2-7B", 4096, 11008},
                         {"Llama-3-8B", 4096, 14336},
                         {"Llama-2-13B", 5120, 13824},
                         {"Llama-2-70B-TP4", 8192, 7168}};

// A buffer of its own for what a step leaves for the next.
struct Between {
  sm90::DeviceBuffer<uint16_t> h{int64_t{16384} * 14336};
  sm90::DeviceBuffer<uint8_t> h8{int64_t{16384} * 14336};
  sm90::DeviceBuffer<float> scales{16384}, sums{int64_t{16384} * 112};

  Between() { FillF16(h.data(), h.count(), 9); }
};

// One FFN; `launch` queues it with the i-th of the weights that are taken in turn.
class FireqFfn {
 public:
  FireqFfn(const Ffn& f, int64_t m, const Arena& arena, const Between& between,
           const sm90::GemmDevice& device, std::span<const sm90::TunedGemm> tuned)
      : up_{2 * f.ffn, f.hidden},
        down_{f.hidden, f.ffn},
        weights_(arena.weights.data()),
        copies_(Copies(up_.size_bytes() + down_.size_bytes(), arena.weights.count())),
        up_plan_(sm90::MakeGemmPlan({m, up_.n, up_.k}, Products::kServed, device, tuned)),
        down_plan_(sm90::MakeGemmPlan({m, down_.n, down_.k}, Products::kServed, device, tuned)) {
    first_.layout = up_;
    first_.row_scales = arena.row_scales.data();
    first_.m = m;
    first_.x = arena.x8.data();
    first_.x_scales = arena.x_scales.data();
    first_.x_sums = arena.x_sums.data();
    first_.epilogue = sm90::GemmEpilogue::kSiluMul;
    first_.y = between.h.data();
    first_.workspace = arena.workspace.data();
    first_.announces = true;
    quantize_ = {between.h.data(),
                 m,
                 f.ffn,
                 {between.h8.data(), between.scales.data(), between.sums.data()},
                 sm90::RowsReadyEarly(up_plan_, first_)};
    second_ = first_;
    second_.announces = false;
    second_.layout = down_;
    second_.x = between.h8.data();
    second_.x_scales = between.scales.data();
    second_.x_sums = between.sums.data();
    second_.epilogue = sm90::GemmEpilogue::kPlain;
    second_.y = arena.y.data();
  }

  void Launch(cudaStream_t stream, int i) {
    first_.tiles = weights_ + i % copies_ * (up_.size_bytes() + down_.size_bytes());
    second_.tiles = first_.tiles + up_.size_bytes();
    sm90::LaunchGemmI4F8(up_plan_, first_, stream);
    sm90::LaunchQuantizeRows(quantize_, stream);
    sm90::LaunchGemmI4F8(down_plan_, second_, stream);
  }

 private:
  WeightTileLayout up_, down_;
  const uint8_t* weights_;
  int64_t copies_;
  sm90::GemmPlan up_plan_, down_plan_;
  sm90::GemmI4F8Args first_, second_;
  sm90::QuantizeRowsArgs quantize_;
};

int BestAlgorithm(const CublasLtGemm& gemm, const void* x, const void* w, void* y) {
  int best = 0;
  double best_us = 1e30;
  for (int a = 0; a < gemm.num_algorithms(); ++a) {
    const double us =
        MedianUs([&](cudaStream_t stream, int) { gemm.Launch(a, x, w, y, stream); }, 1, 3);
    if (us < best_us) {
      best_us = us;
      best = a;
    }
  }
  return best;
}

// The same by cuBLASLt in FP16, with a kernel for SiLU(gate) . up.
class CublasFfn {
 public:
  CublasFfn(const Ffn& f, int64_t m, const Arena& arena, const Between& between)
      : up_(m, 2 * f.ffn, f.hidden, false),
        down_(m, f.hidden, f.ffn, false),
        m_(m),
        ffn_(f.ffn),
        hidden_(f.hidden),
        copies_(Copies(6 * f.ffn * f.hidden, 2 * arena.fp16.count())),
        arena_(arena),
        between_(between),
        up_algorithm_(BestAlgorithm(up_, arena.x16.data(), arena.fp16.data(), arena.y.data())),
        down_algorithm_(BestAlgorithm(down_, between.h.data(), arena.fp16.data(), arena.y.data())) {
  }

  void Launch(cudaStream_t stream, int i) const {
    const uint16_t* w = arena_.fp16.data() + i % copies_ * (3 * ffn_ * hidden_);
    uint16_t* gate_up = arena_.y.data();
    up_.Launch(up_algorithm_, arena_.x16.data(), w, gate_up, stream);
    SiluMulF16(gate_up, m_, ffn_, between_.h.data(), stream);
    down_.Launch(down_algorithm_, between_.h.data(), w + 2 * ffn_ * hidden_, gate_up, stream);
  }

 private:
  CublasLtGemm up_, down_;
  int64_t m_, ffn_, hidden_, copies_;
  const Arena& arena_;
  const Between& between_;
  int up_algorithm_, down_algorithm_;
};

double CopyUs(const Arena& arena, int64_t bytes) {
  // A copy of b bytes moves 2 b.
  const int64_t half = AlignUp<int64_t>(bytes / 2, 16);
  const int64_t copies = Copies(half, arena.fp8.count());
  const auto launch = [&](cudaStream_t stream, int i) {
    FIREQ_CUDA(cudaMemcpyAsync(arena.y.data(), arena.fp8.data() + i % copies * half,
                               static_cast<size_t>(half), cudaMemcpyDeviceToDevice, stream));
  };
  return MedianUs(launch, CallsFor(MedianUs(launch, 2, 3)), 9);
}

// What makes E4M3 rows of BF16 ones, at one size.
struct Producer {
  const char* name;
  int64_t m, k;
  int64_t bytes;  // read 2 a value (and 2 of the residual), written 1 (and 2 of the sum)
  Launcher launch;
};

std::vector<Producer> Producers(const Arena& arena, const Between& between, int64_t m) {
  std::vector<Producer> producers;
  for (const int64_t k : {4096, 5120, 8192, 11008, 14336}) {
    const int64_t copies = Copies(2 * m * k, 2 * arena.x16.count());
    const auto x = [all = arena.x16.data(), copies, m, k](int i) {
      return all + i % copies * m * k;
    };
    const sm90::QuantizedRows out{between.h8.data(), between.scales.data(), between.sums.data()};
    const int64_t written = m * 4 * (1 + CeilDiv<int64_t>(k, kGroup));  // scales and sums
    producers.push_back(
        {"quantize_rows", m, k, m * k * 3 + written, [=](cudaStream_t stream, int i) {
           sm90::LaunchQuantizeRows({x(i), m, k, out}, stream);
         }});
    if (k > 8192) continue;
    sm90::RmsNormQuantArgs norm;
    norm.weight = arena.x_sums.data();
    norm.eps = 1e-5f;
    norm.rows = m;
    norm.k = k;
    norm.out = out;
    const auto launch = [=](cudaStream_t stream, int i) {
      sm90::RmsNormQuantArgs call = norm;
      call.x = x(i);
      sm90::LaunchRmsNormQuant(call, stream);
    };
    producers.push_back({"rmsnorm_quant", m, k, m * k * 3 + written, launch});
    const auto launch_residual = [=, residual = arena.y.data(), sum = between.h.data()](
                                     cudaStream_t stream, int i) {
      sm90::RmsNormQuantArgs call = norm;
      call.x = x(i);
      call.residual = residual;
      call.sum = sum;
      sm90::LaunchRmsNormQuant(call, stream);
    };
    producers.push_back({"rmsnorm_quant_residual", m, k, m * k * 7 + written, launch_residual});
    norm.x = arena.x16.data();
    if (const sm90::Stream stream; !sm90::LaunchRmsNormQuantOfFewRows(norm, stream.get())) continue;
    const auto launch_few = [=](cudaStream_t stream, int i) {
      sm90::RmsNormQuantArgs call = norm;
      call.x = x(i);
      sm90::LaunchRmsNormQuantOfFewRows(call, stream);
    };
    producers.push_back({"rmsnorm_quant_few_rows", m, k, m * k * 3 + written, launch_few});
  }
  return producers;
}

}  // namespace

void BenchFfn(const Arena& arena, const std::vector<int64_t>& tokens,
              const sm90::GemmDevice& device, std::span<const sm90::TunedGemm> tuned) {
  const Between between;
  std::printf("model,M,kernel,median_us,cublas_fp16_us,ratio_fp16\n");
  for (const Ffn& f : kFfns) {
    for (const int64_t m : tokens) {
      const int repeats = m >= 4096 ? 5 : 15;
      const CublasFfn cublas(f, m, arena, between);
      FireqFfn ffn(f, m, arena, between, device, tuned);
      const Launcher their = [&](cudaStream_t stream, int i) { cublas.Launch(stream, i); };
      const Launcher our = [&](cudaStream_t stream, int i) { ffn.Launch(stream, i); };
      const auto [theirs, ours] = MediansInTurn(
          {their, our}, {CallsFor(MedianUs(their, 2, 3)), CallsFor(MedianUs(our, 2, 3))}, repeats);
      std::printf("%s,%ld,fireq,%.3f,%.3f,%.3f\n", f.model, static_cast<long>(m), ours, theirs,
                  theirs / ours);
      std::fflush(stdout);
    }
  }
}

void ProfileFfn(const Arena& arena, const std::vector<int64_t>& tokens,
                const sm90::GemmDevice& device, std::span<const sm90::TunedGemm> tuned) {
  const Between between;
  std::printf("model,M,kernel,step\n");
  for (const Ffn& f : kFfns) {
    for (const int64_t m : tokens) {
      const CublasFfn cublas(f, m, arena, between);
      FireqFfn ffn(f, m, arena, between, device, tuned);
      ProfileOnce([&](cudaStream_t stream, int i) { ffn.Launch(stream, i); });
      for (const char* step : {"gate_up", "quantize", "down"})
        std::printf("%s,%ld,fireq,%s\n", f.model, static_cast<long>(m), step);
      ProfileOnce([&](cudaStream_t stream, int i) { cublas.Launch(stream, i); });
      for (const char* step : {"gate_up", "silu_mul", "down"})
        std::printf("%s,%ld,cublas_fp16,%s\n", f.model, static_cast<long>(m), step);
      std::fflush(stdout);
    }
  }
}

void SoakFfn(const Arena& arena, const std::vector<int64_t>& tokens, const sm90::GemmDevice& device,
             std::span<const sm90::TunedGemm> tuned, int replays) {
  constexpr int kCalls = 16;
  const Between between;
  for (const Ffn& f : kFfns) {
    for (const int64_t m : tokens) {
      FireqFfn ffn(f, m, arena, between, device, tuned);
      const sm90::Graph graph([&](cudaStream_t stream) {
        for (int i = 0; i < kCalls; ++i) ffn.Launch(stream, i);
      });
      const sm90::Stream stream;
      std::vector<uint16_t> first(static_cast<size_t>(m * f.hidden)), last = first;
      const auto read = [&](std::vector<uint16_t>& to) {
        stream.Synchronize();
        FIREQ_CUDA(cudaMemcpy(to.data(), arena.y.data(), 2 * to.size(), cudaMemcpyDeviceToHost));
      };
      graph.Launch(stream.get());
      read(first);
      for (int i = 0; i < replays; ++i) graph.Launch(stream.get());
      read(last);
      std::printf("soak %s m %ld: %d FFNs, %s\n", f.model, static_cast<long>(m), kCalls * replays,
                  first == last ? "the same bits" : "OTHER BITS");
      std::fflush(stdout);
    }
  }
}

void BenchProducers(const Arena& arena, const std::vector<int64_t>& tokens) {
  const Between between;
  std::printf("kernel,M,K,median_us,copy_us,ratio_copy\n");
  for (const int64_t m : tokens) {
    for (const Producer& p : Producers(arena, between, m)) {
      const double us = MedianUs(p.launch, CallsFor(MedianUs(p.launch, 2, 3)), 9);
      const double copy_us = CopyUs(arena, p.bytes);
      std::printf("%s,%ld,%ld,%.3f,%.3f,%.3f\n", p.name, static_cast<long>(p.m),
                  static_cast<long>(p.k), us, copy_us, copy_us / us);
      std::fflush(stdout);
    }
  }
}

void ProfileProducers(const Arena& arena, const std::vector<int64_t>& tokens) {
  const Between between;
  std::printf("kernel,M,K\n");
  for (const int64_t m : tokens) {
    for (const Producer& p : Producers(arena, between, m)) {
      ProfileOnce(p.launch);
      std::printf("%s,%ld,%ld\n", p.name, static_cast<long>(p.m), static_cast<long>(p.k));
      std::fflush(stdout);
    }
  }
}

}  // namespace fireq::bench
