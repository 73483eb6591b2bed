// Time of one launch from captured graphs over rotating inputs.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::bench {

struct Timing {
  double median_us = 0.0;
  double low_us = 0.0;   // 10th percentile
  double high_us = 0.0;  // 90th percentile
};

// `launch(i, stream)` queues the i-th of `launches` launches of one graph; `repeats` replays are
// timed after two that are not.
inline Timing TimeGraph(int launches, int repeats,
                        const std::function<void(int, cudaStream_t)>& launch) {
  const sm90::Graph graph([&](cudaStream_t stream) {
    for (int i = 0; i < launches; ++i) launch(i, stream);
  });
  const sm90::Stream stream;
  std::vector<double> times;
  for (int i = -2; i < repeats; ++i) {
    const sm90::Event start;
    const sm90::Event stop;
    start.Record(stream.get());
    graph.Launch(stream.get());
    stop.Record(stream.get());
    stop.Synchronize();
    if (i >= 0) times.push_back(stop.MicrosecondsSince(start) / launches);
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](double part) { return times[static_cast<size_t>(part * (repeats - 1))]; };
  return {at(0.5), at(0.1), at(0.9)};
}

}  // namespace fireq::bench
