// Medians of CUDA-graph batches.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <functional>

namespace fireq::bench {

using Launcher = std::function<void(cudaStream_t, int)>;

// Median microseconds of one call of `launch(stream, i)`: `calls` calls (i = 0.., to rotate buffers
// by) in one graph, replayed `repeats` times after a warm-up.
double MedianUs(const Launcher& launch, int calls, int repeats);

// The same of two that are to be compared, replayed in turn: near its power limit a GPU's clock
// depends on what it ran before, and so both must have run after the same.
std::array<double, 2> MediansInTurn(const std::array<Launcher, 2>& launches,
                                    const std::array<int, 2>& calls, int repeats);

// Launches three times, then once that `ncu --profile-from-start off` sees.
void ProfileOnce(const Launcher& launch);

// How many calls of about `us` make a batch long enough to time.
int CallsFor(double us);

}  // namespace fireq::bench
