// Medians of CUDA-graph batches.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <functional>
#include <vector>

namespace fireq::bench {

using Launcher = std::function<void(cudaStream_t, int)>;

// Median microseconds of one call of `launch(stream, i)`: `calls` calls (i = 0.., to rotate buffers
// by) in one graph, replayed `repeats` times after a warm-up.
double MedianUs(const Launcher& launch, int calls, int repeats);

// The same of two that are to be compared, replayed in turn: near its power limit a GPU's clock
// depends on what it ran before, and so both must have run after the same.
std::array<double, 2> MediansInTurn(const std::array<Launcher, 2>& launches,
                                    const std::array<int, 2>& calls, int repeats);

// Each of `replays` of such a graph, without a warm-up: of one call the microseconds, and meanwhile
// the clock of a multiprocessor, which says whether the GPU was at its power limit. In front of
// each the GPU is idle for `pause_ms`.
struct Replay {
  double us, mhz;
};
std::vector<Replay> Replays(const Launcher& launch, int calls, int replays, int pause_ms);

// Launches three times, then once that `ncu --profile-from-start off` sees.
void ProfileOnce(const Launcher& launch);

// How many calls of about `us` make a batch long enough to time.
int CallsFor(double us);

}  // namespace fireq::bench
