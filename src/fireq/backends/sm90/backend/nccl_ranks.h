// Ranks that are GPUs of this host, connected by NCCL, which is looked for when it is first wanted:
// a machine without it runs everything but this. Short sums go through peer memory where it is open
// (peer_sum/).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "fireq/ops/backend.h"
#include "fireq/ops/ranks.h"

namespace fireq {

// An end for each of `backends`, which are MakeSm90Backend's on devices 0, 1, ... and outlive it.
// The library is libnccl.so.2 as the loader finds it. Throws kUnsupported without it, and as long
// as ends of another call are there; kCuda with NCCL's sentence.
std::vector<std::shared_ptr<Ranks>> MakeNcclRanks(std::span<Backend* const> backends);

}  // namespace fireq
