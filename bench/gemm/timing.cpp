#include "bench/gemm/timing.h"

#include <algorithm>
#include <vector>

#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::bench {

double MedianUs(const std::function<void(cudaStream_t, int)>& launch, int calls, int repeats) {
  const sm90::Graph graph([&](cudaStream_t stream) {
    for (int i = 0; i < calls; ++i) launch(stream, i);
  });
  const sm90::Stream stream;
  const sm90::Event begin, end;
  graph.Launch(stream.get());
  stream.Synchronize();
  std::vector<double> us;
  for (int i = 0; i < repeats; ++i) {
    begin.Record(stream.get());
    graph.Launch(stream.get());
    end.Record(stream.get());
    end.Synchronize();
    us.push_back(end.MicrosecondsSince(begin) / calls);
  }
  std::nth_element(us.begin(), us.begin() + repeats / 2, us.end());
  return us[static_cast<size_t>(repeats / 2)];
}

int CallsFor(double us) { return static_cast<int>(std::clamp(600.0 / us, 1.0, 60.0)); }

}  // namespace fireq::bench
