// Every set of kernels that this machine can run, as a parameter of the CPU backend's tests.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fireq/backends/cpu/cpu_backend.h"
#include "hwy/targets.h"

namespace fireq::testing {

// "Best", or the portable kernels for one of Highway's targets.
struct KernelSet {
  std::string name;
  int64_t target = 0;  // HWY_AVX2, ...; 0: best
};

inline std::vector<KernelSet> KernelSets() {
  std::vector<KernelSet> sets = {{"Best", 0}};
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    sets.push_back({hwy::TargetName(target), target});
  }
  return sets;
}

// A backend chooses its kernels when it is made.
inline std::unique_ptr<Backend> MakeBackend(int threads, const KernelSet& set) {
  if (set.target == 0) return MakeCpuBackend({threads, false});
  hwy::GetChosenTarget().Update(set.target);
  auto backend = MakeCpuBackend({threads, true});
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return backend;
}

}  // namespace fireq::testing
