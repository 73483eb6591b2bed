// Medians of CUDA-graph batches.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace fireq::bench {

// Median microseconds of one call of `launch(stream, i)`: `calls` calls (i = 0.., to rotate buffers
// by) in one graph, replayed `repeats` times after a warm-up.
double MedianUs(const std::function<void(cudaStream_t, int)>& launch, int calls, int repeats);

// How many calls of about `us` make a batch long enough to time.
int CallsFor(double us);

}  // namespace fireq::bench
