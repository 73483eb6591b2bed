// Times the attention kernels; one CSV row a shape on stdout.
//
// The floor of decode is the cache's INT4 bytes at the rate of a kernel that only reads, measured
// by this program. Caches rotate past the L2.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/attention/random_step.h"
#include "bench/attention/timing.h"
#include "bench/gemm/device_data.h"
#include "fireq/backends/sm90/attn_decode_i4/launch.h"
#include "fireq/backends/sm90/attn_prefill/launch.h"
#include "fireq/backends/sm90/rope_kv_write/launch.h"

namespace fireq::bench {
namespace {

constexpr int64_t kRotatedBytes = int64_t{256} << 20;

struct Shape {
  int batch = 0;
  int context = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int queries = 1;
  int short_sequences = 0;  // the last of the batch
  bool one_cache = false;   // which the L2 keeps, if it is small
};

Shape ParseShape(const char* text) {
  Shape s;
  const int fields = std::sscanf(text, "%dx%dx%dx%dx%dx%d", &s.batch, &s.context, &s.heads,
                                 &s.kv_heads, &s.head_dim, &s.queries);
  FIREQ_CHECK(fields >= 5, kInvalidArgument, "bench attention: shape ", text);
  return s;
}

using Steps = std::vector<std::unique_ptr<RandomStep>>;

Steps MakeSteps(const StepShape& shape, int64_t bytes) {
  Steps steps;
  for (int64_t total = 0; steps.empty() || total < kRotatedBytes; total += bytes)
    steps.push_back(std::make_unique<RandomStep>(shape, static_cast<uint32_t>(steps.size()) + 1));
  return steps;
}

// Bytes read and written by a device-to-device copy of 512 MiB.
double CopyBytesPerUs() {
  constexpr int64_t kBytes = int64_t{512} << 20;
  sm90::DeviceBuffer<uint8_t> from(kBytes);
  from.FillBytes(0x5A);
  const sm90::DeviceBuffer<uint8_t> to(kBytes);
  const Timing t = TimeGraph(4, 9, [&](int, cudaStream_t stream) {
    FIREQ_CUDA(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream));
  });
  return 2.0 * kBytes / t.median_us;
}

// Of a plain read of 1 GiB, the fastest of a few shapes of its grid.
double ReadBytesPerUs() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const sm90::DeviceBuffer<uint8_t> data(kBytes);
  FillE4M3(data.data(), kBytes, 1);
  const sm90::DeviceBuffer<uint32_t> sink(1);
  double best = 0.0;
  for (const int unroll : {4, 8}) {
    for (const int ctas_per_sm : {2, 4, 8}) {
      const Timing t = TimeGraph(2, 7, [&](int, cudaStream_t stream) {
        ReadBytes(data.data(), kBytes, unroll, ctas_per_sm, sink.data(), stream);
      });
      best = std::max(best, kBytes / t.median_us);
    }
  }
  return best;
}

// Of the codes, scales and zero points that a decode step reads.
int64_t CacheBytes(const Shape& s, const KvPageLayout& layout) {
  const int64_t tokens =
      int64_t{s.batch - s.short_sequences} * s.context + int64_t{s.short_sequences} * kShortContext;
  return tokens * s.kv_heads * (layout.head_bytes() / kTokensPerPage);
}

void PrintDecode(const Shape& s, const Timing& t, double floor_us) {
  std::printf("%d,%d,%d,%d,%d,%.2f,%.2f,%.2f,%.2f,%.2f\n", s.batch, s.context, s.heads, s.kv_heads,
              s.head_dim, t.median_us, floor_us, t.median_us / floor_us, t.low_us, t.high_us);
  std::fflush(stdout);
}

sm90::AttnDecodeArgs DecodeArgs(const Shape& s, const RandomStep& step,
                                const sm90::DeviceBuffer<float>& workspace) {
  sm90::AttnDecodeArgs args;
  args.tensors = {.q = step.q.data(),
                  .scale_q = step.scale_q.data(),
                  .pages = step.pages.data(),
                  .query_start = step.query_start.data(),
                  .context_len = step.context_len.data(),
                  .page_table = step.page_table.data(),
                  .out = step.out.data(),
                  .workspace = workspace.data(),
                  .num_sequences = s.batch,
                  .num_heads = s.heads,
                  .kv_heads = s.kv_heads,
                  .max_pages = step.max_pages};
  return args;
}

sm90::RopeKvWriteParams RopeArgs(const Shape& s, const RandomStep& step, const RandomQkv& input) {
  return {.qkv = input.qkv.data(),
          .query_start = step.query_start.data(),
          .context_len = step.context_len.data(),
          .page_table = step.page_table.data(),
          .rope_cos = input.rope_cos.data(),
          .rope_sin = input.rope_sin.data(),
          .q = step.q.data(),
          .scale_q = step.scale_q.data(),
          .pages = step.pages.data(),
          .num_sequences = s.batch,
          .max_query_len = s.queries,
          .num_heads = s.heads,
          .kv_heads = s.kv_heads,
          .max_pages = step.max_pages};
}

void BenchDecode(const Shape& s, bool programmatic) {
  FIREQ_CHECK(s.short_sequences >= 0 && s.short_sequences <= s.batch && s.queries <= kShortContext,
              kInvalidArgument, "bench attention: ", s.short_sequences, " short sequences of ",
              s.batch, " with ", s.queries, " queries");
  const KvPageLayout layout{KvGrid::kAsymmetric, s.kv_heads, s.head_dim};
  const int64_t bytes = CacheBytes(s, layout);
  const Steps steps =
      MakeSteps({s.batch, s.queries, s.context, s.heads, layout, 1.0f, s.short_sequences},
                s.one_cache ? kRotatedBytes : bytes);
  const sm90::AttnDecodePlan plan = sm90::MakeAttnDecodePlan(
      {s.batch, s.heads, s.kv_heads, s.head_dim, s.queries, sm90::NumSms(), steps[0]->max_pages});
  sm90::DeviceBuffer<float> workspace(plan.workspace_bytes / 4);
  workspace.FillBytes(0);
  // A step makes its lists once for the attention of all its layers, and so does a graph, of the
  // caches' first.
  std::vector<sm90::DeviceBuffer<uint8_t>> lists;
  const auto make_lists = [&](size_t which, cudaStream_t stream) {
    const sm90::AttnDecodeParams tensors = DecodeArgs(s, *steps[which], workspace).tensors;
    sm90::LaunchDecodeLists(plan, tensors, lists[which].data(), stream);
  };
  const sm90::Stream before;
  for (size_t which = 0; which < steps.size(); ++which) {
    lists.emplace_back(std::max<int64_t>(plan.lists_bytes, 1));
    make_lists(which, before.get());
  }
  before.Synchronize();
  const int launches = std::max<int>(static_cast<int>(steps.size()), 20);
  const Timing t = TimeGraph(launches, 15, [&](int i, cudaStream_t stream) {
    const size_t which = static_cast<size_t>(i) % steps.size();
    if (i == 0) make_lists(which, stream);
    sm90::AttnDecodeArgs args = DecodeArgs(s, *steps[which], workspace);
    args.lists = lists[which].data();
    args.programmatic = programmatic && i > 0;
    LaunchAttnDecodeI4(plan, args, stream);
  });
  PrintDecode(s, t, static_cast<double>(bytes) / ReadBytesPerUs());
}

// A step's attention with what comes in front of it, as dependent launches: rope_kv_write and
// attention, and attention that does both. Their rounds take turns.
void BenchDecodeTokens(const Shape& s) {
  const KvPageLayout layout{KvGrid::kAsymmetric, s.kv_heads, s.head_dim};
  const StepShape shape{s.batch, s.queries, s.context, s.heads, layout};
  const int64_t bytes = CacheBytes(s, layout);
  const Steps steps = MakeSteps(shape, bytes);
  std::vector<RandomQkv> inputs;
  for (size_t i = 0; i < steps.size(); ++i) inputs.emplace_back(shape, static_cast<uint32_t>(i));
  const double floor_us = static_cast<double>(bytes) / ReadBytesPerUs();
  const int launches = std::max<int>(static_cast<int>(steps.size()), 20);
  constexpr int kRounds = 3;
  for (int run = 0; run < 2 * kRounds; ++run) {
    const bool fused = run % 2 != 0;
    const sm90::AttnDecodePlan plan = sm90::MakeAttnDecodePlan({.num_sequences = s.batch,
                                                                .num_heads = s.heads,
                                                                .kv_heads = s.kv_heads,
                                                                .head_dim = s.head_dim,
                                                                .max_query_len = s.queries,
                                                                .num_sms = sm90::NumSms(),
                                                                .max_pages = steps[0]->max_pages,
                                                                .writes_tokens = fused});
    sm90::DeviceBuffer<float> workspace(plan.workspace_bytes / 4);
    workspace.FillBytes(0);
    const Timing t = TimeGraph(launches, 15, [&](int i, cudaStream_t stream) {
      const size_t which = static_cast<size_t>(i) % steps.size();
      sm90::RopeKvWriteParams rope = RopeArgs(s, *steps[which], inputs[which]);
      rope.programmatic = true;
      sm90::AttnDecodeArgs args = DecodeArgs(s, *steps[which], workspace);
      args.programmatic = true;
      if (fused) {
        args.rope = &rope;
      } else {
        sm90::LaunchRopeKvWrite(rope, s.head_dim, stream);
      }
      LaunchAttnDecodeI4(plan, args, stream);
    });
    std::printf("%s,%d,", fused ? "attention_writes_tokens" : "rope_kv_write+attention",
                run / 2 + 1);
    PrintDecode(s, t, floor_us);
  }
}

void BenchPrefill(const Shape& s, float deviation, const sm90::PrefillUnpackPolicy& policy) {
  const KvPageLayout layout{KvGrid::kAsymmetric, s.kv_heads, s.head_dim};
  const int64_t bytes = int64_t{s.batch} * s.context * s.heads * s.head_dim * 3;  // Q and out
  const Steps steps = MakeSteps({s.batch, s.context, s.context, s.heads, layout, deviation}, bytes);
  const std::vector<int32_t> lengths(static_cast<size_t>(s.batch), s.context);
  const sm90::AttnPrefillPlan plan = sm90::MakeAttnPrefillPlan(
      lengths, lengths, s.heads, s.kv_heads, s.head_dim, sm90::NumSms(), policy);
  const sm90::DeviceBuffer<sm90::AttnPrefillItem> items(plan.items);
  const sm90::DeviceBuffer<int32_t> pieces(plan.pieces);
  const sm90::DeviceBuffer<sm90::AttnPrefillTile> tiles(plan.tiles);
  const sm90::DeviceBuffer<uint8_t> workspace(plan.workspace_bytes);
  const sm90::DeviceBuffer<uint32_t> progress(
      std::vector<uint32_t>(static_cast<size_t>(plan.progress_bytes) / sizeof(uint32_t)));
  const double operations =
      2.0 * s.batch * s.heads * double(s.context) * double(s.context) * s.head_dim;
  const int launches = std::clamp(static_cast<int>(4e12 / operations), 2, 20);
  const Timing t = TimeGraph(launches, 11, [&](int i, cudaStream_t stream) {
    const RandomStep& step = *steps[static_cast<size_t>(i) % steps.size()];
    sm90::AttnPrefillArgs args;
    args.tensors = {.q = step.q.data(),
                    .scale_q = step.scale_q.data(),
                    .pages = step.pages.data(),
                    .page_table = step.page_table.data(),
                    .items = items.data(),
                    .pieces = pieces.data(),
                    .tiles = tiles.data(),
                    .workspace = workspace.data(),
                    .progress = progress.data(),
                    .out = step.out.data(),
                    .num_heads = s.heads,
                    .kv_heads = s.kv_heads,
                    .max_pages = step.max_pages};
    LaunchAttnPrefill(plan, args, stream);
  });
  std::printf("%d,%d,%d,%d,%d,%.2f,%.1f,%.2f,%.2f\n", s.batch, s.context, s.heads, s.kv_heads,
              s.head_dim, t.median_us, operations / t.median_us * 1e-6, t.low_us, t.high_us);
  std::fflush(stdout);
}

void BenchRope(const Shape& s) {
  const KvPageLayout layout{KvGrid::kAsymmetric, s.kv_heads, s.head_dim};
  const StepShape shape{s.batch, s.queries, s.context, s.heads, layout};
  const int64_t a_token = int64_t{s.heads + 2 * s.kv_heads} * s.head_dim * 2 +  // QKV
                          int64_t{s.heads} * (s.head_dim + 4) +                 // Q and its scales
                          s.kv_heads * (layout.head_bytes() / kTokensPerPage);  // K and V
  const int64_t bytes = a_token * s.batch * s.queries;
  const Steps steps = MakeSteps(shape, bytes);
  std::vector<RandomQkv> inputs;
  for (size_t i = 0; i < steps.size(); ++i) inputs.emplace_back(shape, static_cast<uint32_t>(i));
  const int launches = std::max<int>(static_cast<int>(steps.size()), 20);
  const Timing t = TimeGraph(launches, 11, [&](int i, cudaStream_t stream) {
    const size_t which = static_cast<size_t>(i) % steps.size();
    sm90::LaunchRopeKvWrite(RopeArgs(s, *steps[which], inputs[which]), s.head_dim, stream);
  });
  const double rate = static_cast<double>(bytes) / t.median_us;
  const double copy = CopyBytesPerUs();
  std::printf("%d,%d,%d,%d,%d,%d,%.2f,%.2f,%.0f,%.0f,%.3f\n", s.batch, s.queries, s.context,
              s.heads, s.kv_heads, s.head_dim, t.median_us, static_cast<double>(bytes) * 1e-6,
              rate * 1e-3, copy * 1e-3, rate / copy);
  std::fflush(stdout);
}

// A sub-command: measures shapes, prints a CSV row each.
CLI::App* AddMeasure(CLI::App& app, const std::string& name, const std::string& help,
                     const std::string& columns, const std::vector<std::string>& usual,
                     const std::function<void(const Shape&)>& measure) {
  CLI::App* command = app.add_subcommand(name, help);
  auto shapes = std::make_shared<std::vector<std::string>>(usual);
  command->add_option("SHAPE", *shapes, "BATCHxCONTEXTxHEADSxKVHEADSxDIM[xQUERIES] ...")
      ->capture_default_str();
  command->footer("Columns: " + columns);
  command->callback([=] {
    std::printf("%s\n", columns.c_str());
    for (const std::string& shape : *shapes) measure(ParseShape(shape.c_str()));
  });
  return command;
}

std::vector<std::string> DecodeShapes() {
  std::vector<std::string> shapes;
  for (const int batch : {1, 16, 64, 256})
    for (const int context : {1024, 4096, 16384})
      shapes.push_back(StrCat(batch, "x", context, "x32x8x128"));
  return shapes;
}

void AddMeasures(CLI::App& app) {
  app.require_subcommand(1);
  auto deviation = std::make_shared<float>(1.0f);
  auto policy = std::make_shared<sm90::PrefillUnpackPolicy>();
  CLI::App* prefill =
      AddMeasure(app, "prefill", "Causal prompts; half of 4 context^2 Dh operations a head",
                 "batch,context,heads,kv_heads,head_dim,median_us,tflops,low_us,high_us",
                 {"16x1024x32x8x128", "16x2048x32x8x128", "16x4096x32x8x128", "4x8192x32x8x128",
                  "1x32768x32x8x128"},
                 [=](const Shape& shape) { BenchPrefill(shape, *deviation, *policy); });
  prefill->add_option("--deviation", *deviation, "Of the scores, in nats")->capture_default_str();
  prefill
      ->add_option("--min-visits", policy->min_visits,
                   "Visits a tile from which on tiles are unpacked once for all")
      ->capture_default_str();
  prefill->add_option("--workspace-limit", policy->workspace_limit, "Of their bytes")
      ->capture_default_str();
  const std::string decode =
      "batch,context,heads,kv_heads,head_dim,median_us,floor_us,ratio_floor,low_us,high_us";
  const auto add_decode = [&](const char* name, const char* help, bool programmatic) {
    auto options = std::make_shared<Shape>();
    CLI::App* command = AddMeasure(app, name, help, decode, DecodeShapes(), [=](Shape shape) {
      shape.short_sequences = options->short_sequences;
      shape.one_cache = options->one_cache;
      BenchDecode(shape, programmatic);
    });
    command
        ->add_option("--short", options->short_sequences,
                     StrCat("So many of the batch, the last, have ", kShortContext, " tokens"))
        ->capture_default_str();
    command->add_flag("--one-cache", options->one_cache,
                      "No caches in turn: a small one stays in the L2");
  };
  add_decode(
      "decode",
      "The last QUERIES tokens of each sequence; what CTAs of many segments do is found once for\n"
      "20 launches and more, as once for a step's layers",
      false);
  add_decode("decode-pdl", "The same as dependent launches that overlap", true);
  AddMeasure(
      app, "decode-tokens",
      "A step of one token a sequence, its queries, K and V included, as dependent launches:\n"
      "rope_kv_write and attention, then attention that makes its queries and writes the\n"
      "tokens itself, in turn, three rounds; where all sequences' KV heads are two CTAs' a\n"
      "multiprocessor at most (33 sequences of 8 KV heads on 132)",
      "kernels,round," + decode, {"1x1024x32x8x128", "16x1024x32x8x128", "33x1024x32x8x128"},
      BenchDecodeTokens);
  AddMeasure(app, "rope", "rope_kv_write of the last QUERIES tokens",
             "batch,queries,context,heads,kv_heads,head_dim,median_us,mbytes,gbytes_per_s,"
             "copy_gbytes_per_s,ratio_copy",
             {"16x1024x32x8x128x1024", "16x4096x32x8x128"}, BenchRope);
}

}  // namespace
}  // namespace fireq::bench

int main(int argc, char** argv) {
  CLI::App app{"Attention over the INT4 KV cache, medians of CUDA-graph batches",
               "fireq bench attention"};
  fireq::bench::AddMeasures(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : fireq::ExitCode(fireq::ErrorCode::kInvalidArgument);
  } catch (const fireq::Error& error) {
    std::fprintf(stderr, "fireq bench attention: %s\n", error.what());
    return fireq::ExitCode(error.code());
  }
}
