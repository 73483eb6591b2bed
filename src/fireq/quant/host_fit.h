// Fits on the host's cores: moments, correction and solver of this folder behind ops/input_fit.h.
#pragma once

#include "fireq/base/thread_pool.h"
#include "fireq/ops/backend.h"
#include "fireq/ops/input_fit.h"

namespace fireq::quant {

// Any number of threads gives the same result.
class HostFitter final : public Fitter {
 public:
  // Keeps references to both. `backend` is where tokens lie.
  HostFitter(Backend& backend, ThreadPool& pool) : backend_(backend), pool_(pool) {}
  std::unique_ptr<InputFit> Start(const FitShape& shape, std::string name) override;

 private:
  Backend& backend_;
  ThreadPool& pool_;
};

}  // namespace fireq::quant
