// Ranks that are threads of this process and share its memory.
#pragma once

#include <memory>
#include <vector>

#include "fireq/ops/ranks.h"

namespace fireq {

// `size` ends of one connection, one for each thread.
std::vector<std::shared_ptr<Ranks>> MakeThreadRanks(int size);

}  // namespace fireq
