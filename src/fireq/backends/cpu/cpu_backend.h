// The served arithmetic on a CPU: vectorised, threaded, deterministic whatever the thread count.
#pragma once

#include <memory>

#include "fireq/ops/backend.h"

namespace fireq {

struct CpuOptions {
  int num_threads = 0;         // 0: one a hardware thread
  bool portable_only = false;  // no instructions of one processor family (FP32 operands)
};

std::unique_ptr<Backend> MakeCpuBackend(const CpuOptions& options = {});

}  // namespace fireq
