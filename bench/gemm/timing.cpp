#include "bench/gemm/timing.h"

#include <cuda_profiler_api.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "bench/gemm/device_data.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::bench {

namespace {

sm90::Graph Batch(const Launcher& launch, int calls) {
  return sm90::Graph([&](cudaStream_t stream) {
    for (int i = 0; i < calls; ++i) launch(stream, i);
  });
}

double ReplayUs(const sm90::Graph& graph, const sm90::Stream& stream) {
  const sm90::Event begin, end;
  begin.Record(stream.get());
  graph.Launch(stream.get());
  end.Record(stream.get());
  end.Synchronize();
  return end.MicrosecondsSince(begin);
}

double Median(std::vector<double> us) {
  const auto middle = us.begin() + static_cast<std::ptrdiff_t>(us.size() / 2);
  std::nth_element(us.begin(), middle, us.end());
  return *middle;
}

}  // namespace

double MedianUs(const Launcher& launch, int calls, int repeats) {
  const sm90::Graph graph = Batch(launch, calls);
  const sm90::Stream stream;
  ReplayUs(graph, stream);
  std::vector<double> us;
  for (int i = 0; i < repeats; ++i) us.push_back(ReplayUs(graph, stream) / calls);
  return Median(us);
}

std::array<double, 2> MediansInTurn(const std::array<Launcher, 2>& launches,
                                    const std::array<int, 2>& calls, int repeats) {
  const std::array<sm90::Graph, 2> graphs{Batch(launches[0], calls[0]),
                                          Batch(launches[1], calls[1])};
  const sm90::Stream stream;
  std::array<std::vector<double>, 2> us;
  for (int i = -1; i < repeats; ++i) {
    for (size_t j = 0; j < 2; ++j) {
      const double once = ReplayUs(graphs[j], stream) / calls[j];
      if (i >= 0) us[j].push_back(once);
    }
  }
  return {Median(us[0]), Median(us[1])};
}

std::vector<Replay> Replays(const Launcher& launch, int calls, int replays, int pause_ms) {
  const sm90::Graph graph = Batch(launch, calls);
  const sm90::Stream stream;
  const sm90::DeviceBuffer<unsigned long long> clocks(4);
  std::vector<Replay> found;
  for (int i = 0; i < replays; ++i) {
    if (pause_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
    ReadClock(clocks.data(), stream.get());
    const double us = ReplayUs(graph, stream) / calls;
    ReadClock(clocks.data() + 2, stream.get());
    stream.Synchronize();
    std::array<unsigned long long, 4> at{};
    FIREQ_CUDA(cudaMemcpy(at.data(), clocks.data(), sizeof(at), cudaMemcpyDeviceToHost));
    found.push_back(
        {us, 1e3 * static_cast<double>(at[2] - at[0]) / static_cast<double>(at[3] - at[1])});
  }
  return found;
}

void ProfileOnce(const Launcher& launch) {
  constexpr int kBefore = 3;
  const sm90::Stream stream;
  for (int i = 0; i < kBefore; ++i) launch(stream.get(), i);
  stream.Synchronize();
  FIREQ_CUDA(cudaProfilerStart());
  launch(stream.get(), kBefore);
  stream.Synchronize();
  FIREQ_CUDA(cudaProfilerStop());
}

int CallsFor(double us) { return static_cast<int>(std::clamp(600.0 / us, 1.0, 60.0)); }

}  // namespace fireq::bench
