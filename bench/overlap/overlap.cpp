// Trial: attention of one half of a decode batch beside the linears of the other, on
// multiprocessors set apart by green contexts: bench_overlap 8b|8b1500|8b512|7b SMS_OF_LINEARS...
#include <cuda.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/attention/random_step.h"
#include "bench/gemm/device_data.h"
#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/elementwise/launch.h"
#include "fireq/backends/sm90/gemm_i4f8/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::bench {
namespace {

template <class F>
F Driver(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  FIREQ_CUDA(cudaGetDriverEntryPointByVersion(name, &function, 13000, cudaEnableDefault, &found));
  FIREQ_CHECK(found == cudaDriverEntryPointSuccess && function != nullptr, kCuda, "no ", name);
  return reinterpret_cast<F>(function);
}
#define DRIVER(name) Driver<decltype(&name)>(#name)
void Ok(CUresult status, const char* what) {
  FIREQ_CHECK(status == CUDA_SUCCESS, kCuda, what, ": ", static_cast<int>(status));
}
#define OK(call) Ok(call, #call)

struct Part {
  int sms = 0;
  cudaStream_t stream = nullptr;
  sm90::GemmDevice device;
};

Part MakePart(CUdevResource resource) {
  Part part;
  part.sms = static_cast<int>(resource.sm.smCount);
  CUdevResourceDesc desc;
  OK(DRIVER(cuDevResourceGenerateDesc)(&desc, &resource, 1));
  CUgreenCtx green;
  OK(DRIVER(cuGreenCtxCreate)(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
  CUstream stream;
  OK(DRIVER(cuGreenCtxStreamCreate)(&stream, green, CU_STREAM_NON_BLOCKING, 0));
  part.stream = stream;
  CUcontext context, before;
  OK(DRIVER(cuCtxFromGreenCtx)(&context, green));
  OK(DRIVER(cuCtxGetCurrent)(&before));
  OK(DRIVER(cuCtxSetCurrent)(context));
  part.device = sm90::QueryGemmDevice();
  OK(DRIVER(cuCtxSetCurrent)(before));
  std::fprintf(stderr, "part of %d multiprocessors: clusters", part.sms);
  for (int c = 1; c <= 8; ++c) std::fprintf(stderr, " %d", part.device.max_clusters[c]);
  std::fprintf(stderr, " (num_sms %d)\n", part.device.num_sms);
  part.device.num_sms = part.sms;
  for (int c = 1; c <= 8; ++c)
    part.device.max_clusters[c] = std::min(part.device.max_clusters[c], part.sms / c);
  return part;
}

struct Parts {
  Part attention, linears;
};
Parts Split(int linears_sms, bool ignore) {
  CUdevResource all{}, group{}, rest{};
  OK(DRIVER(cuDeviceGetDevResource)(0, &all, CU_DEV_RESOURCE_TYPE_SM));
  unsigned groups = 1;
  OK(DRIVER(cuDevSmResourceSplitByCount)(
      &group, &groups, &all, &rest, ignore ? CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING : 0,
      static_cast<unsigned>(linears_sms)));
  Parts parts;
  parts.linears = MakePart(group);
  parts.attention = MakePart(rest);
  return parts;
}

cudaGraphExec_t Capture(cudaStream_t stream, const std::function<void()>& body) {
  FIREQ_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  body();
  cudaGraph_t graph;
  FIREQ_CUDA(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t exec;
  FIREQ_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  FIREQ_CUDA(cudaGraphDestroy(graph));
  return exec;
}

double Median(cudaStream_t stream, cudaGraphExec_t graph, int repeats) {
  std::vector<double> us;
  for (int i = -2; i < repeats; ++i) {
    const sm90::Event begin, end;
    begin.Record(stream);
    FIREQ_CUDA(cudaGraphLaunch(graph, stream));
    end.Record(stream);
    end.Synchronize();
    if (i >= 0) us.push_back(end.MicrosecondsSince(begin));
  }
  std::sort(us.begin(), us.end());
  return us[us.size() / 2];
}

struct Model {
  int64_t hidden, ffn;
  int heads, kv_heads;
};

constexpr int kDistinct = 4;  // layers with weights and caches of their own
constexpr int kLayers = 16;   // of a replay

// What all linears need, of `m` tokens.
struct Linears {
  Linears(const Model& model, int64_t tokens, const sm90::GemmDevice& device, cudaStream_t stream)
      : m(tokens), f(model) {
    const int64_t qkv_rows = (f.heads + 2 * f.kv_heads) * 128;
    shapes = {
        {f.hidden, f.heads * 128}, {2 * f.ffn, f.hidden}, {f.hidden, f.ffn}, {qkv_rows, f.hidden}};
    for (const auto& s : shapes) layer_bytes += WeightTileLayout{s[0], s[1]}.size_bytes();
    weights = sm90::DeviceBuffer<uint8_t>(layer_bytes * kDistinct);
    FillTiles(weights.data(), weights.count() / kTileBytes, false, 1);
    FillFloats(row_scales.data(), row_scales.count(), 0.25f, 0.25f, 8);
    FillFloats(norm.data(), norm.count(), 0.5f, 1.5f, 9);
    FillF16(x.data(), x.count(), 5);
    FillF16(h.data(), h.count(), 6);
    FillE4M3(codes.data(), codes.count(), 7);
    FillFloats(scales.data(), scales.count(), 1e-4f, 1e-3f, 6);
    workspace.FillBytes(0);
    FIREQ_CUDA(cudaDeviceSynchronize());
    for (size_t i = 0; i < 4; ++i) plans.push_back(Best(i, device, stream));
  }

  sm90::GemmI4F8Args Args(size_t i, int layer) const {
    sm90::GemmI4F8Args args;
    args.layout = {shapes[i][0], shapes[i][1]};
    args.tiles = weights.data() + layer % kDistinct * layer_bytes;
    for (size_t j = 0; j < i; ++j)
      args.tiles += WeightTileLayout{shapes[j][0], shapes[j][1]}.size_bytes();
    args.row_scales = row_scales.data();
    args.m = m;
    args.x = codes.data();
    args.x_scales = scales.data();
    args.x_sums = sums.data();
    args.workspace = workspace.data();
    args.y = i == 1 ? h.data() : (i == 3 ? qkv.data() : x.data());
    if (i == 1) args.epilogue = sm90::GemmEpilogue::kSiluMul;
    if (i == 0 || i == 2) {
      args.epilogue = sm90::GemmEpilogue::kResidual;
      args.residual = x.data();
    }
    return args;
  }

  sm90::GemmPlan Best(size_t i, const sm90::GemmDevice& device, cudaStream_t stream) const {
    const sm90::GemmShape shape{m, shapes[i][0], shapes[i][1]};
    sm90::GemmPlan best;
    double best_us = 1e30, tuned_us = 0;
    const auto time = [&](const sm90::GemmPlan& plan) {
      cudaGraphExec_t graph = Capture(stream, [&] {
        for (int l = 0; l < 20; ++l) LaunchGemmI4F8(plan, Args(i, l), stream);
      });
      const double us = Median(stream, graph, 5) / 20;
      FIREQ_CUDA(cudaGraphExecDestroy(graph));
      return us;
    };
    best = sm90::MakeGemmPlan(shape, Products::kTable, device);
    tuned_us = best_us = time(best);
    const char* tuned_name = best.kernel().name;
    for (size_t v = 0; v < sm90::kGemmVariants.size(); ++v) {
      const auto& variant = sm90::kGemmVariants[v];
      if (variant.kernel != sm90::GemmKernel::kWide) continue;
      for (const bool cut : {false, true}) {
        const auto plan =
            sm90::MakeForcedGemmPlan(shape, static_cast<int>(v), variant.wide_cluster, device, cut);
        if (cut && !plan.cuts_tiles()) continue;
        const double us = time(plan);
        if (us < best_us) {
          best_us = us;
          best = plan;
        }
      }
    }
    std::fprintf(stderr, "  m %ld n %ld k %ld on %d: %s%s %.2f us, tuned %s %.2f\n",
                 static_cast<long>(m), static_cast<long>(shape.n), static_cast<long>(shape.k),
                 device.num_sms, best.kernel().name, best.cuts_tiles() ? " cut" : "", best_us,
                 tuned_name, tuned_us);
    return best;
  }

  // From attention's output to the next block's Q, K and V.
  void Launch(int layer, cudaStream_t stream) const {
    const sm90::QuantizedRows out{codes.data(), scales.data(), sums.data()};
    sm90::LaunchQuantizeRows({attended.data(), m, f.heads * 128, out, {}}, stream);
    LaunchGemmI4F8(plans[0], Args(0, layer), stream);
    const sm90::RmsNormQuantArgs rms{x.data(), nullptr, nullptr,  norm.data(),
                                     1e-5f,    m,       f.hidden, out};
    sm90::LaunchRmsNormQuant(rms, stream);
    LaunchGemmI4F8(plans[1], Args(1, layer), stream);
    sm90::LaunchQuantizeRows({h.data(), m, f.ffn, out, {}}, stream);
    LaunchGemmI4F8(plans[2], Args(2, layer), stream);
    sm90::LaunchRmsNormQuant(rms, stream);
    LaunchGemmI4F8(plans[3], Args(3, layer), stream);
  }

  int64_t m, layer_bytes = 0;
  Model f;
  std::vector<std::array<int64_t, 2>> shapes;
  std::vector<sm90::GemmPlan> plans;
  sm90::DeviceBuffer<uint8_t> weights;
  sm90::DeviceBuffer<float> row_scales{32768}, norm{16384};
  sm90::DeviceBuffer<uint16_t> attended{m * f.heads * 128}, x{m * f.hidden}, h{m * f.ffn},
      qkv{m * (f.heads + 2 * f.kv_heads) * 128};
  sm90::DeviceBuffer<uint8_t> codes{m * std::max(f.hidden, f.ffn)};
  sm90::DeviceBuffer<float> scales{m}, sums{m * 128};
  sm90::DeviceBuffer<uint8_t> workspace{sm90::GemmWorkspaceBytes({})};
};

struct Attention {
  Attention(const Model& f, int batch, int context, int sms, const std::vector<RandomStep*>& s)
      : steps(s),
        plan(sm90::MakeAttnDecodePlan({.num_sequences = batch,
                                       .num_heads = f.heads,
                                       .kv_heads = f.kv_heads,
                                       .head_dim = 128,
                                       .max_query_len = 1,
                                       .num_sms = sms,
                                       .max_pages = (context + 63) / 64})),
        workspace(plan.workspace_bytes / 4),
        model(f),
        sequences(batch) {
    workspace.FillBytes(0);
  }
  void Launch(int i, bool programmatic, cudaStream_t stream) const {
    const RandomStep& step = *steps[static_cast<size_t>(i) % steps.size()];
    sm90::AttnDecodeArgs args;
    args.tensors = {.q = step.q.data(),
                    .scale_q = step.scale_q.data(),
                    .pages = step.pages.data(),
                    .query_start = step.query_start.data(),
                    .context_len = step.context_len.data(),
                    .page_table = step.page_table.data(),
                    .out = step.out.data(),
                    .workspace = workspace.data(),
                    .num_sequences = sequences,
                    .num_heads = model.heads,
                    .kv_heads = model.kv_heads,
                    .max_pages = step.max_pages};
    args.programmatic = programmatic;
    LaunchAttnDecodeI4(plan, args, stream);
  }
  std::vector<RandomStep*> steps;
  sm90::AttnDecodePlan plan;
  sm90::DeviceBuffer<float> workspace;
  Model model;
  int sequences;
};

std::vector<std::unique_ptr<RandomStep>> Caches(const Model& f, int batch, int context, int count) {
  std::vector<std::unique_ptr<RandomStep>> caches;
  const KvPageLayout layout{KvGrid::kAsymmetric, f.kv_heads, 128};
  for (int i = 0; i < count; ++i)
    caches.push_back(std::make_unique<RandomStep>(StepShape{batch, 1, context, f.heads, layout},
                                                  static_cast<uint32_t>(i + 1)));
  return caches;
}

double Both(const Attention& attention, const Linears& linears, cudaStream_t tall,
            cudaStream_t wide, bool pdl) {
  std::vector<std::unique_ptr<sm90::Event>> events;
  const auto cross = [&](cudaStream_t from, cudaStream_t to) {
    events.push_back(std::make_unique<sm90::Event>(sm90::Event::Timing::kNone));
    events.back()->Record(from);
    FIREQ_CUDA(cudaStreamWaitEvent(to, events.back()->get(), 0));
  };
  cudaGraphExec_t graph = Capture(wide, [&] {
    cross(wide, tall);
    // attention of half h, layer l, waits for linears of half h, layer l - 1.
    std::array<std::unique_ptr<sm90::Event>, 2> done;
    for (int l = 0; l < kLayers; ++l) {
      for (size_t half = 0; half < 2; ++half) {
        if (done[half]) FIREQ_CUDA(cudaStreamWaitEvent(tall, done[half]->get(), 0));
        attention.Launch(2 * l + static_cast<int>(half), pdl, tall);
        cross(tall, wide);
        linears.Launch(l, wide);
        if (done[half]) events.push_back(std::move(done[half]));
        done[half] = std::make_unique<sm90::Event>(sm90::Event::Timing::kNone);
        done[half]->Record(wide);
      }
    }
    for (auto& event : done) events.push_back(std::move(event));
    cross(tall, wide);
  });
  const double us = Median(wide, graph, 9) / kLayers;
  FIREQ_CUDA(cudaGraphExecDestroy(graph));
  return us;
}

void Run(const Model& f, int batch, int context, const std::vector<int>& splits) {
  const int half = batch / 2;
  std::printf("model hidden %ld ffn %ld heads %d/%d batch %d context %d\n",
              static_cast<long>(f.hidden), static_cast<long>(f.ffn), f.heads, f.kv_heads, batch,
              context);
  const sm90::Stream plain, other;
  const auto loop = [&](cudaStream_t stream, int layers, const std::function<void(int)>& body) {
    cudaGraphExec_t graph = Capture(stream, [&] {
      for (int l = 0; l < layers; ++l) body(l);
    });
    const double us = Median(stream, graph, 9) / layers;
    FIREQ_CUDA(cudaGraphExecDestroy(graph));
    return us;
  };
  auto caches = Caches(f, half, context, 2 * kDistinct);
  std::vector<RandomStep*> halves;
  for (auto& c : caches) halves.push_back(c.get());
  const sm90::GemmDevice device = sm90::QueryGemmDevice();
  {
    auto whole_caches = Caches(f, batch, context, kDistinct);
    std::vector<RandomStep*> wholes;
    for (auto& c : whole_caches) wholes.push_back(c.get());
    const Linears linears(f, batch, device, plain.get());
    const Attention attention(f, batch, context, 132, wholes);
    const auto a = [&](int l) { attention.Launch(l, true, plain.get()); };
    const auto b = [&](int l) { linears.Launch(l, plain.get()); };
    for (int round = 0; round < 2; ++round)
      std::printf("whole batch: attention %.1f linears %.1f both %.1f us\n",
                  loop(plain.get(), kLayers, a), loop(plain.get(), kLayers, b),
                  loop(plain.get(), kLayers, [&](int l) {
                    a(l);
                    b(l);
                  }));
  }
  {
    const Linears linears(f, half, device, plain.get());
    const Attention attention(f, half, context, 132, halves);
    std::printf("half batch, all multiprocessors: attention %.1f linears %.1f us\n",
                loop(plain.get(), kLayers, [&](int l) { attention.Launch(l, true, plain.get()); }),
                loop(plain.get(), kLayers, [&](int l) { linears.Launch(l, plain.get()); }));
  }
  for (const int split : splits) {
    try {
      const Parts parts = Split(std::abs(split), split < 0);
      const cudaStream_t tall = parts.attention.stream, wide = parts.linears.stream;
      const Linears linears(f, half, parts.linears.device, wide);
      const Attention attention(f, half, context, parts.attention.sms, halves);
      const double alone_a = loop(tall, kLayers, [&](int l) { attention.Launch(l, true, tall); });
      const double alone_l = loop(wide, kLayers, [&](int l) { linears.Launch(l, wide); });
      std::printf("attention %d, linears %d: alone %.1f, %.1f;", parts.attention.sms,
                  parts.linears.sms, alone_a, alone_l);
      std::fflush(stdout);
      for (const bool pdl : {false, true})
        std::printf(" together %.1f", Both(attention, linears, tall, wide, pdl));
      std::printf(" us a layer");
      // The same plans on streams that share all multiprocessors.
      std::printf("; not set apart %.1f\n",
                  Both(attention, linears, plain.get(), other.get(), false));
      std::fflush(stdout);
    } catch (const Error& error) {
      std::printf(" split %d: %s\n", split, error.what());
      static_cast<void>(cudaGetLastError());
    }
  }
}

}  // namespace
}  // namespace fireq::bench

int main(int argc, char** argv) {
  using fireq::bench::Run;
  FIREQ_CUDA(cudaFree(nullptr));
  const std::string which = argc > 1 ? argv[1] : "8b";
  std::vector<int> splits;
  for (int i = 2; i < argc; ++i) splits.push_back(std::atoi(argv[i]));
  try {
    if (which == "8b") Run({4096, 14336, 32, 8}, 256, 1281, splits);
    if (which == "8b1500") Run({4096, 14336, 32, 8}, 256, 1537, splits);
    if (which == "7b") Run({4096, 11008, 32, 32}, 256, 1281, splits);
    if (which == "8b512") Run({4096, 14336, 32, 8}, 512, 1281, splits);
  } catch (const fireq::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  return 0;
}
