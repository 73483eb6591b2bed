// The ops of a quantised model on a Hopper GPU, by FireQ's kernels.
#pragma once

#include <memory>
#include <string>

#include "fireq/ops/backend.h"

namespace fireq {

// True if the machine has a GPU of compute capability 9.x that this build can use.
bool HasSm90();
// Why it cannot, where that is an NVIDIA driver that is too old; else empty.
std::string WhyOldDriver();

// On CUDA device `device`. One stream; everything is asynchronous on it except Upload of pageable
// memory and Download. Backends of one GPU in one process, in a thread each, queue their ops one
// behind the other (stream_turns.h). Runs W4A8KV4 checkpoints (BF16 borders, E4M3 activations and
// queries, INT4 cache, head dim 64 or 128); anything else is kUnsupported by name and runs on the
// CPU backend. Errors: kCuda, kUnsupported (no Hopper GPU).
std::unique_ptr<Backend> MakeSm90Backend(int device = 0);

}  // namespace fireq
